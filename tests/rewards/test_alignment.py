"""The checker's probability of the words of a caption."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from stepcredit.errors import InputError, RewardError
from stepcredit.rewards import checked
from stepcredit.rewards.alignment import Alignment
from stepcredit.shapes.checker import Checker
from stepcredit.shapes.render import render
from stepcredit.shapes.world import ATTRIBUTES, Scene, caption
from stepcredit.types import RewardFunction

SCENES = [
    Scene("circle", "red", "blue", "large", "solid", "center"),
    Scene("cross", "white", "green", "small", "striped", "left"),
    Scene("square", "black", "cyan", "large", "checkered", "right"),
]
CAPTIONS = [caption(SCENES[0], set()), caption(SCENES[1], {"size"}), caption(SCENES[2])]


class FixedChecker(Checker):
    """Returns fixed probabilities for any image: `sees` maps an attribute to a word and its probability."""

    def __init__(self, sees: dict[str, tuple[str, float]]) -> None:
        super().__init__(width=8)
        self.sees = sees

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {name: self._logits(name, words).expand(len(images), -1) for name, words in ATTRIBUTES.items()}

    def _logits(self, name: str, words: tuple[str, ...]) -> Tensor:
        word, probability = self.sees.get(name, (words[0], 1 / len(words)))
        rest = (1 - probability) / (len(words) - 1)
        return torch.tensor([probability if word == other else rest for other in words]).log()


def small_checker() -> Checker:
    torch.manual_seed(0)
    return Checker(width=8).eval()


@pytest.fixture
def images() -> Tensor:
    return render(SCENES, np.random.default_rng(0))


def score(reward: RewardFunction, images: Tensor, prompts: list[str] | None = None) -> Tensor:
    return reward(images, prompts or ["a cat"] * len(images), [{}] * len(images))


def test_mean_over_the_mentioned_attributes() -> None:
    checker = FixedChecker({"shape": ("circle", 0.9), "foreground": ("red", 0.6), "size": ("small", 0.7)})
    prompts = ["a red circle on a blue background", "a large red square on a blue background"]
    # The checker sees no background, so each of its 8 words has probability 1/8.
    expected = [(0.9 + 0.6 + 1 / 8) / 3, (0.1 / 3 + 0.6 + 1 / 8 + 0.3) / 4]
    scores = score(Alignment(checker), torch.zeros(2, 3, 32, 32), prompts)
    torch.testing.assert_close(scores, torch.tensor(expected))


def test_scores_are_between_0_and_1(images: Tensor) -> None:
    scores = score(Alignment(small_checker()), images, CAPTIONS)
    assert ((scores > 0) & (scores < 1)).all()


def test_other_prompts_are_refused(images: Tensor) -> None:
    reward = checked(Alignment(small_checker()), "alignment")
    with pytest.raises(RewardError, match="'a cat'"):
        score(reward, images, [CAPTIONS[0], "a cat", CAPTIONS[2]])


def test_other_image_sizes_are_refused() -> None:
    with pytest.raises(InputError, match=r"images have shape \(1, 3, 64, 64\)"):
        score(Alignment(small_checker()), torch.zeros(1, 3, 64, 64), CAPTIONS[:1])
