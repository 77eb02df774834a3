"""Scenes and renders of the composition world."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stepcredit.shapes.composition.captions import parse, sample_caption
from stepcredit.shapes.composition.claims import COLORS, SHAPES, TASKS
from stepcredit.shapes.composition.scenes import (
    CLEAR,
    GAP,
    PALETTE,
    SIZE,
    Object,
    Scene,
    coverage,
    render,
    sample_scene,
)


def scenes(task: str, count: int = 60) -> list[tuple[str, Scene]]:
    rng = np.random.default_rng(TASKS.index(task))
    texts = [sample_caption(rng, "training", task) for _ in range(count)]
    return [(text, sample_scene(parse(text), rng)) for text in texts]


@pytest.mark.parametrize("task", TASKS)
def test_a_scene_has_the_objects_of_its_claim_inside_the_picture_and_apart(task: str) -> None:
    for text, scene in scenes(task):
        claim = parse(text)
        assert [SHAPES[each.shape] for each in scene] == [named.shape for named in claim.objects]
        assert all(named.color in (None, COLORS[each.color]) for named, each in zip(claim.objects, scene, strict=True))
        for number, each in enumerate(scene):
            assert each.radius < min(each.x, each.y) and max(each.x, each.y) < SIZE - each.radius
            for other in scene[:number]:
                distance = np.hypot(each.x - other.x, each.y - other.y)
                assert distance >= each.radius + other.radius + GAP


def test_a_relation_is_clear() -> None:
    signs = {"left of": (-1, 0), "right of": (1, 0), "above": (0, -1), "below": (0, 1)}
    for text, (first, second) in scenes("position"):
        across, down = signs[parse(text).relation or ""]
        along = across * (first.x - second.x) + down * (first.y - second.y)
        other = down * (first.x - second.x) + across * (first.y - second.y)
        assert along >= abs(other) + CLEAR


def test_renders_are_reproducible_and_show_the_colors() -> None:
    scene = (Object(SHAPES.index("square"), COLORS.index("blue"), 10.0, 20.0, 6.0),)
    image = render([scene, scene], np.random.default_rng(0))
    assert image.shape == (2, 3, SIZE, SIZE) and image.min() >= 0 and image.max() <= 1
    assert torch.equal(image, render([scene, scene], np.random.default_rng(0)))
    assert (image[:, :, 20, 10] - PALETTE[COLORS.index("blue")]).abs().max() <= 0.031
    assert image[:, :, 2, 28].min() >= 0.77 and not torch.equal(image[0], image[1])


def test_coverage_is_the_area_of_the_shape() -> None:
    radius = torch.full((4,), 8.0)
    area = coverage(torch.arange(4), torch.full((4, 2), 16.0), radius).sum((1, 2))
    circle, square, _, cross = area.tolist()
    assert circle == pytest.approx(np.pi * 64, rel=0.01)
    assert square == pytest.approx(14.4**2, rel=0.02)
    assert cross == pytest.approx(2 * 16 * 6.4 - 6.4**2, rel=0.03)
