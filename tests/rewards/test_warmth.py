"""Mean red minus mean blue."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from stepcredit.config import RewardSection
from stepcredit.rewards import build_reward
from stepcredit.types import RewardFunction


def plain(red: float, green: float, blue: float) -> Tensor:
    return torch.tensor([red, green, blue]).view(1, 3, 1, 1).expand(1, 3, 32, 32)


def score(reward: RewardFunction, images: Tensor, prompts: list[str] | None = None) -> Tensor:
    return reward(images, prompts or ["a cat"] * len(images), [{}] * len(images))


@pytest.mark.parametrize(
    ("color", "expected"),
    [((1, 0, 0), 1), ((0, 0, 1), -1), ((0, 1, 0), 0), ((0.5, 0.5, 0.5), 0), ((0.75, 0, 0.5), 0.25)],
)
def test_red_minus_blue(color: tuple[float, float, float], expected: float) -> None:
    assert score(build_reward(RewardSection(name="warmth")), plain(*color)).item() == pytest.approx(expected)


def test_mean_over_the_image() -> None:
    half = torch.cat([plain(1, 0, 0)[..., :16], plain(0, 0, 0)[..., :16]], dim=3)
    assert score(build_reward(RewardSection(name="warmth")), half).item() == pytest.approx(0.5)
