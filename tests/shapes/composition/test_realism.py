"""The distance of pictures from real renders."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from stepcredit.errors import InputError
from stepcredit.shapes.composition.captions import distinct_captions, parse
from stepcredit.shapes.composition.claims import COLORS
from stepcredit.shapes.composition.realism import FEATURES, features, realism
from stepcredit.shapes.composition.scenes import Object, render, sample_scene

CAPTIONS = distinct_captions(240, "training", seed=0)


@pytest.fixture(scope="module")
def renders() -> Tensor:
    rng = np.random.default_rng(7)
    return render([sample_scene(parse(caption), rng) for caption in CAPTIONS], rng)


def test_fresh_renders_are_near(renders: Tensor) -> None:
    assert 0 <= realism(renders, CAPTIONS) < 1


def bleached(images: Tensor) -> Tensor:
    return (images + 0.1).clamp(0, 1)


def blurred(images: Tensor) -> Tensor:
    return avg_pool2d(images, 3, 1, 1, count_include_pad=False)


def noisy(images: Tensor) -> Tensor:
    return (images + 0.03 * torch.randn(images.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)


def one_picture(images: Tensor) -> Tensor:
    return images[:1].expand_as(images)


def purple_to_blue(images: Tensor) -> Tensor:
    return torch.stack([0.7 * images[:, 0], images[:, 1], images[:, 2]], 1)


@pytest.mark.parametrize("change", [bleached, blurred, noisy, one_picture, purple_to_blue])
def test_what_reward_hacking_does_to_pictures_is_far(change, renders: Tensor) -> None:  # type: ignore[no-untyped-def]
    assert realism(change(renders), CAPTIONS) > 4 * realism(renders, CAPTIONS)


def test_features_of_a_known_picture() -> None:
    scene = (Object(1, 2, 8.0, 16.0, 5.0), Object(0, 0, 24.0, 16.0, 6.0))
    (row,) = features(render([scene], np.random.default_rng(0))).tolist()
    found = dict(zip(FEATURES, row, strict=True))
    assert (found["objects"], found["blue"], found["red"], found["green"]) == (2, 1, 1, 0)
    assert found["x"] == pytest.approx(0.5, abs=0.01) and found["y"] == pytest.approx(0.5, abs=0.01)
    assert found["area"] == pytest.approx(100, abs=8) and found["overlap with a shape"] > 0.95
    assert 0.78 < found["background red"] < 0.97 and found["background noise"] < 0.01


def test_an_empty_picture_has_features() -> None:
    rows = features(torch.full((2, 3, 32, 32), 0.9))
    assert rows.shape == (2, len(FEATURES)) and rows.isfinite().all()
    assert rows[:, 4:].abs().max() == 0 and len(FEATURES) == 11 + len(COLORS)


def test_pictures_of_another_size() -> None:
    with pytest.raises(InputError):
        realism(torch.zeros(4, 3, 64, 64), CAPTIONS[:4])
