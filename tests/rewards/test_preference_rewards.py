"""The four rewards that were trained on synthetic preferences."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from stepcredit.config import RewardSection
from stepcredit.errors import RewardError
from stepcredit.rewards import build_reward
from stepcredit.shapes.render import render
from stepcredit.shapes.rules import RULES
from stepcredit.shapes.scorers import load_scorer
from stepcredit.shapes.world import Scene, caption
from stepcredit.types import RewardFunction

SCENES = [
    Scene("circle", "red", "blue", "large", "solid", "center"),
    Scene("cross", "white", "green", "small", "striped", "left"),
    Scene("square", "black", "cyan", "large", "checkered", "right"),
]
CAPTIONS = [caption(SCENES[0], set()), caption(SCENES[1], {"size"}), caption(SCENES[2])]


PREFERENCES = ("harmony", "balance", "legibility", "faithfulness")


@pytest.fixture
def images() -> Tensor:
    return render(SCENES, np.random.default_rng(0))


def score(reward: RewardFunction, images: Tensor, prompts: list[str] | None = None) -> Tensor:
    return reward(images, prompts or ["a cat"] * len(images), [{}] * len(images))


def test_every_rule_has_a_reward() -> None:
    assert set(PREFERENCES) == set(RULES)


@pytest.mark.parametrize("name", PREFERENCES)
def test_score_is_the_output_of_the_packaged_scorer(name: str, images: Tensor) -> None:
    expected = load_scorer(name)(images, CAPTIONS)
    assert torch.equal(score(build_reward(RewardSection(name=name)), images, CAPTIONS), expected)


def test_good_images_score_higher_than_bad_ones() -> None:
    good = {
        "harmony": Scene("circle", "yellow", "blue", "large", "solid", "center"),
        "balance": Scene("circle", "red", "blue", "large", "solid", "center"),
        "legibility": Scene("circle", "white", "black", "large", "solid", "center"),
        "faithfulness": SCENES[0],
    }
    bad = {
        "harmony": Scene("circle", "red", "green", "large", "solid", "center"),
        "balance": Scene("triangle", "red", "blue", "small", "solid", "left"),
        "legibility": Scene("circle", "purple", "blue", "large", "solid", "center"),
        "faithfulness": SCENES[2],
    }
    for name in PREFERENCES:
        images = render([good[name], bad[name]], np.random.default_rng(0))
        best, worst = score(build_reward(RewardSection(name=name)), images, [CAPTIONS[0]] * 2)
        assert best > worst + 1, name


def test_only_faithfulness_reads_the_prompt(images: Tensor) -> None:
    with pytest.raises(RewardError, match="'a cat'"):
        score(build_reward(RewardSection(name="faithfulness")), images, [CAPTIONS[0], "a cat", CAPTIONS[2]])
    for name in PREFERENCES[:3]:
        reward = build_reward(RewardSection(name=name))
        assert torch.equal(score(reward, images, ["a cat", "", "b"]), score(reward, images, CAPTIONS))


@pytest.mark.parametrize("name", PREFERENCES)
def test_other_image_sizes_are_refused(name: str) -> None:
    with pytest.raises(RewardError, match=r"\(1, 3, 64, 64\)"):
        score(build_reward(RewardSection(name=name)), torch.zeros(1, 3, 64, 64), CAPTIONS[:1])
