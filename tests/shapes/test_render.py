"""Renders show each attribute of their scene."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from stepcredit.shapes.render import SIZE, render
from stepcredit.shapes.world import ATTRIBUTES, COLORS, Scene, sample_scene

PLAIN = Scene("circle", "red", "blue", "large", "striped", "center")


def drawn(*scenes: Scene, seed: int = 0) -> Tensor:
    """Each scene rendered separately with the same jitter."""
    return torch.cat([render([scene], np.random.default_rng(seed)) for scene in scenes])


def changed(image: Tensor) -> Tensor:
    """(32,32), where an image differs from its corner, which is background."""
    return (image - image[:, :1, :1]).abs().sum(0) > 0.1


def test_image_shape_and_range() -> None:
    rng = np.random.default_rng(0)
    images = render([sample_scene(rng) for _ in range(64)], rng)
    assert images.shape == (64, 3, SIZE, SIZE) and images.dtype == torch.float32
    assert images.min() >= 0 and images.max() <= 1
    assert torch.equal(images[:, :, 0, 0], images[:, :, -1, -1])


def test_render_depends_only_on_its_generator() -> None:
    rng = np.random.default_rng(1)
    scenes = [sample_scene(rng) for _ in range(8)]
    torch.manual_seed(0)
    first = render(scenes, np.random.default_rng(2))
    assert torch.equal(render(scenes, np.random.default_rng(2)), first)
    assert not torch.equal(render(scenes, np.random.default_rng(3)), first)


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_words_of_an_attribute_look_different(name: str) -> None:
    words = [word for word in ATTRIBUTES[name] if name != "foreground" or word != PLAIN.background]
    words = [word for word in words if name != "background" or word != PLAIN.foreground]
    images = drawn(*(replace(PLAIN, **{name: word}) for word in words))
    for left in range(len(words)):
        for right in range(left):
            different = ((images[left] - images[right]).abs().amax(0) > 0.1).float().mean()
            assert different > 0.03, (words[left], words[right])


def test_position_of_the_shape() -> None:
    rows, columns = torch.meshgrid(torch.arange(SIZE) - 15.5, torch.arange(SIZE) - 15.5, indexing="ij")
    expected = {"left": (-7, 0), "right": (7, 0), "top": (0, -7), "bottom": (0, 7), "center": (0, 0)}
    for position, (x, y) in expected.items():
        shape = changed(drawn(replace(PLAIN, position=position, texture="solid", size="small"))[0])
        assert float(columns[shape].mean()) == pytest.approx(x, abs=1.6)
        assert float(rows[shape].mean()) == pytest.approx(y, abs=1.6)


def test_large_shapes_are_larger() -> None:
    small, large = (changed(image).sum() for image in drawn(replace(PLAIN, size="small"), PLAIN))
    assert large > 1.5 * small


@pytest.mark.parametrize("foreground", COLORS)
def test_texture_is_visible_on_every_color(foreground: str) -> None:
    background = "white" if foreground != "white" else "black"
    scene = replace(PLAIN, foreground=foreground, background=background)
    solid, striped = drawn(replace(scene, texture="solid"), scene)
    assert ((solid - striped).abs().amax(0) > 0.3).sum() > 50
