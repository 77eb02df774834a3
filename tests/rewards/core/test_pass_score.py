"""The score from which an image counts as correct: where it comes from, and which images reach it."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from stepcredit.config import RewardSection
from stepcredit.errors import InputError
from stepcredit.rewards import REWARDS, as_reward, build_reward
from stepcredit.rewards.core.card import RewardCard

FILE = """
from stepcredit.rewards.core.card import RewardCard

class Bright:
    CARD = RewardCard(pass_score=0.25)

    def __call__(self, images):
        return images.mean((1, 2, 3))

def plain(images):
    return images.mean((1, 2, 3))
"""


class Bright:
    CARD = RewardCard(pass_score=0.5)

    def __call__(self, images: Tensor) -> Tensor:
        return images.mean((1, 2, 3))


def bright(images: Tensor, scale: float = 1.0) -> Tensor:
    return scale * images.mean((1, 2, 3))


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> str:
    REWARDS.names()
    monkeypatch.setitem(REWARDS._parts, "bright", Bright)
    return "bright"


def test_rewards_by_name(tmp_path: Path, registered: str) -> None:
    (tmp_path / "mine.py").write_text(FILE)
    assert build_reward(RewardSection(name=registered)).pass_score == 0.5
    assert build_reward(RewardSection(name=f"{tmp_path / 'mine.py'}:Bright")).pass_score == 0.25
    assert build_reward(RewardSection(name=f"{tmp_path / 'mine.py'}:plain")).pass_score is None
    assert build_reward(RewardSection(name="warmth")).pass_score is None
    assert build_reward(RewardSection(name="composition", options={"score": "share"})).pass_score == 1.0


def test_rewards_passed_in_python(monkeypatch: pytest.MonkeyPatch) -> None:
    assert as_reward(Bright()).pass_score == 0.5
    assert as_reward(bright).pass_score is None
    monkeypatch.setattr(bright, "CARD", RewardCard(pass_score=0), raising=False)
    assert as_reward(bright).pass_score == as_reward(functools.partial(bright, scale=2.0)).pass_score == 0


def test_a_card_of_another_library_is_none_of_ours() -> None:
    class Other(Bright):
        CARD = {"pass_score": 1}  # type: ignore[assignment]  # noqa: RUF012

    assert as_reward(Other()).pass_score is None


def test_a_mixture_has_no_pass_score(registered: str) -> None:
    mixture = build_reward(RewardSection.model_validate({"components": [{"name": registered}, {"name": "warmth"}]}))
    assert mixture.pass_score is None and mixture.passed(torch.ones(2)) is None


@pytest.mark.parametrize(
    "elsewhere", [{"remote": "http://127.0.0.1:1"}, {"ray_workers": 1}], ids=["on a server", "on Ray actors"]
)
def test_a_reward_elsewhere_has_the_card_of_its_name(
    elsewhere: dict[str, Any], registered: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("httpx")
    monkeypatch.setattr("stepcredit.rewards.ray_reward", lambda section: Bright())
    found = build_reward(RewardSection.model_validate({"name": registered, **elsewhere}))
    assert found.pass_score == 0.5
    unknown = build_reward(RewardSection.model_validate({"name": f"{tmp_path / 'absent.py'}:score", **elsewhere}))
    assert unknown.pass_score is None


def test_images_pass_from_that_score_on() -> None:
    reward = as_reward(Bright())
    passed = reward.passed(torch.tensor([[0.4999, 0.5], [0.7, -1.0]]))
    assert passed is not None and passed.tolist() == [[False, True], [True, False]]


def test_a_pass_score_that_float32_rounds_is_reached() -> None:
    class Ninth(Bright):
        CARD = RewardCard(pass_score=0.9)

    passed = as_reward(Ninth()).passed(torch.tensor([0.9, 0.8999]))
    assert passed is not None and passed.tolist() == [True, False]


@pytest.mark.parametrize("score", [float("nan"), float("inf"), "1", True])
def test_a_pass_score_must_be_a_number(score: Any) -> None:
    with pytest.raises(InputError, match="pass_score"):
        RewardCard(pass_score=score)
