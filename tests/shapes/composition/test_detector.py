"""The detector reads renders, and says nothing of what it cannot decide."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from stepcredit.errors import InputError
from stepcredit.shapes.composition.captions import parse, sample_caption
from stepcredit.shapes.composition.claims import COLORS, SHAPES, TASKS
from stepcredit.shapes.composition.detector import detect
from stepcredit.shapes.composition.facts import facts
from stepcredit.shapes.composition.scenes import PALETTE, SIZE, Object, coverage, render, sample_scene


def plain(*objects: tuple[Tensor, Tensor]) -> Tensor:
    """A light gray picture with objects, each given by its coverage (32, 32) and its color (3,)."""
    image = torch.full((3, SIZE, SIZE), 0.9)
    for covered, color in objects:
        image = image + covered * (color.view(3, 1, 1) - image)
    return image.unsqueeze(0)


def drawn(shape: str, x: float, y: float, radius: float) -> Tensor:
    return coverage(torch.tensor([SHAPES.index(shape)]), torch.tensor([[x, y]]), torch.tensor([radius]))[0]


@pytest.mark.parametrize("task", TASKS)
def test_facts_of_renders(task: str) -> None:
    """At least 99% of them; none of these is wrong."""
    rng = np.random.default_rng(100 + TASKS.index(task))
    texts = [sample_caption(rng, "training", task) for _ in range(150)]
    images = render([sample_scene(parse(text), rng) for text in texts], rng)
    held = [
        fact for text, found in zip(texts, detect(images), strict=True) for fact in facts(parse(text), found).values()
    ]
    assert sum(held) / len(held) >= 0.99


def test_place_and_area() -> None:
    scene = (Object(0, 1, 9.3, 21.8, 5.0), Object(2, 4, 22.5, 8.0, 5.5))
    found = sorted(detect(render([scene], np.random.default_rng(0)))[0], key=lambda each: each.x)
    assert [(each.shape, each.color) for each in found] == [(0, 1), (2, 4)]
    assert found[0].x == pytest.approx(9.3, abs=0.3) and found[0].y == pytest.approx(21.8, abs=0.3)
    assert found[0].area == pytest.approx(np.pi * 25, rel=0.1)


def test_an_empty_picture_and_a_speck_hold_no_object() -> None:
    speck = torch.zeros(SIZE, SIZE)
    speck[5:7, 5:8] = 1
    assert detect(torch.cat([plain(), plain((speck, PALETTE[0]))])) == [[], []]
    assert detect(torch.zeros(0, 3, SIZE, SIZE)) == []


@pytest.mark.parametrize(
    "covered",
    [
        (drawn("square", 16, 16, 7) + drawn("circle", 16, 16, 7)) / 2,  # a rounded square
        torch.maximum(drawn("square", 12, 16, 5), drawn("square", 20, 16, 5)),  # a bar
        torch.maximum(drawn("circle", 12, 16, 5), drawn("triangle", 18, 16, 6)),  # two shapes in one
    ],
)
def test_an_unclear_shape_has_no_word(covered: Tensor) -> None:
    (found,) = detect(plain((covered, PALETTE[2])))
    assert [each.shape for each in found] == [None] and [each.color for each in found] == [2]


@pytest.mark.parametrize("color", [(0.5, 0.5, 0.5), (1.0, 0.5, 0.0), (0.0, 0.0, 0.0)])
def test_a_color_that_is_none_of_the_words(color: tuple[float, float, float]) -> None:
    (found,) = detect(plain((drawn("circle", 16, 16, 7), torch.tensor(color))))
    assert [(each.shape, each.color) for each in found] == [(0, None)]


def test_an_object_of_two_colors_has_no_color_word() -> None:
    covered = drawn("square", 16, 16, 8)
    left = covered * (torch.arange(SIZE) < 16)
    (found,) = detect(plain((left, PALETTE[0]), (covered - left, PALETTE[4])))
    assert [each.color for each in found] == [None]


@pytest.mark.parametrize("number", range(len(COLORS)))
def test_colors_are_read_on_backgrounds_of_any_kind(number: int) -> None:
    image = plain((drawn("cross", 16, 16, 8), PALETTE[number]))
    (found,) = detect((image + 0.02 * torch.randn(image.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1))
    assert [(each.shape, each.color) for each in found] == [(SHAPES.index("cross"), number)]


def test_images_of_another_size_are_refused() -> None:
    with pytest.raises(InputError, match="32 x 32"):
        detect(torch.zeros(1, 3, 64, 64))
