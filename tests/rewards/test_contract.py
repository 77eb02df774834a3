"""What every registered reward must do, according to what its card declares. A new reward needs no entry here."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from stepcredit.config import RewardSection
from stepcredit.errors import InputError
from stepcredit.prompts import load_prompts
from stepcredit.registry import require_options
from stepcredit.rewards import REWARDS, CheckedReward, build_reward
from stepcredit.rewards.core.card import RewardCard
from stepcredit.shapes.render import render
from stepcredit.shapes.world import Scene, caption

SCENES = [
    Scene("circle", "red", "blue", "large", "solid", "center"),
    Scene("cross", "white", "green", "small", "striped", "left"),
]
IMAGES = render(SCENES, np.random.default_rng(0))
CAPTIONS = [caption(SCENES[0], set()), caption(SCENES[1], {"size"})]
METADATA: list[dict[str, Any]] = [{"text": "stop"}, {"text": "go"}]


def card(name: str) -> RewardCard:
    declared = getattr(REWARDS.get(name), "CARD", RewardCard())
    assert isinstance(declared, RewardCard)
    return declared


def needing(needs: str) -> list[str]:
    return [name for name in REWARDS.names() if card(name).needs == needs]


@pytest.fixture(scope="module", params=needing(""))
def reward(request: pytest.FixtureRequest) -> CheckedReward:
    try:
        return build_reward(RewardSection(name=request.param))
    except InputError as error:
        if card(request.param).extra and f"stepcredit[{card(request.param).extra}]" in str(error):
            pytest.skip(str(error))
        raise


@pytest.fixture(scope="module")
def scores(reward: CheckedReward) -> Tensor:
    return score(reward, IMAGES.clone())


def score(reward: CheckedReward, images: Tensor, rows: slice = slice(None)) -> Tensor:
    source = card(reward.name).prompts
    prompts = [prompt.text for prompt in load_prompts(source)[:2]] if source else CAPTIONS
    return reward(images[rows], prompts[rows], METADATA[rows])


def test_scores_are_reproducible_and_images_unchanged(reward: CheckedReward, scores: Tensor) -> None:
    images = IMAGES.clone()
    assert scores.shape == (2,) and scores.dtype == torch.float32
    assert torch.equal(score(reward, images), scores)
    assert torch.equal(images, IMAGES)


def test_scores_do_not_depend_on_the_batch(reward: CheckedReward, scores: Tensor) -> None:
    torch.testing.assert_close(score(reward, IMAGES, slice(1, 2)), scores[1:])


def test_half_precision_images(reward: CheckedReward, scores: Tensor) -> None:
    torch.testing.assert_close(score(reward, IMAGES.half()), scores, atol=0.02, rtol=0.02)


@pytest.mark.parametrize("name", REWARDS.names())
def test_the_docstring_begins_with_a_line_for_the_list(name: str) -> None:
    first = (REWARDS.get(name).__doc__ or "").partition("\n")[0]
    assert first.endswith(".") and len(first) < 120


@pytest.mark.parametrize("name", REWARDS.names())
def test_an_unknown_option_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="no_such_option"):
        require_options(REWARDS.get(name), name, ["no_such_option"])


@pytest.mark.parametrize("name", needing("download"))
def test_weights_that_cannot_be_downloaded(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match="FOLDER"):
        build_reward(RewardSection(name=name))


@pytest.mark.parametrize("name", needing("download"))
def test_the_card_of_a_download_has_weights_size_and_license(name: str) -> None:
    assert card(name).weights and card(name).size and card(name).license


@pytest.mark.parametrize("name", needing("server"))
def test_a_server_must_be_given(name: str) -> None:
    with pytest.raises(InputError, match="required"):
        build_reward(RewardSection(name=name))
