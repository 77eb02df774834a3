"""The reward of the composition world."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stepcredit.errors import InputError
from stepcredit.rewards.composition import Composition
from stepcredit.shapes.composition.captions import parse
from stepcredit.shapes.composition.scenes import render, sample_scene

TEXTS = ["a red circle and a blue square", "three crosses", "a circle above a square", "a triangle"]
RNG = np.random.default_rng(0)
IMAGES = render([sample_scene(parse(text), RNG) for text in TEXTS], RNG)


@pytest.mark.parametrize("score", ["mixed", "share", "all"])
def test_a_render_of_its_caption_gets_1(score: str) -> None:
    assert torch.equal(Composition(score)(IMAGES, TEXTS, [{}] * 4), torch.ones(4))


def test_shares_of_facts() -> None:
    wrong = [
        "a red circle and a green square",
        "two crosses",
        "a circle below a square",
        "two triangles",
    ]
    share = Composition("share")(IMAGES, wrong, [{}] * 4)
    assert share.tolist() == pytest.approx([4 / 5, 2 / 3, 3 / 4, 1 / 3])
    assert torch.equal(Composition("all")(IMAGES, wrong, [{}] * 4), torch.zeros(4))
    assert torch.equal(Composition()(IMAGES, wrong, [{}] * 4), share / 2)


def test_bad_input() -> None:
    with pytest.raises(InputError, match="a cat"):
        Composition()(IMAGES[:1], ["a cat"], [{}])
    with pytest.raises(InputError, match="32 x 32"):
        Composition()(torch.zeros(1, 3, 64, 64), TEXTS[:1], [{}])
    with pytest.raises(InputError, match="mixed, share, all"):
        Composition("most")
