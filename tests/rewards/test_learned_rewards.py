"""The published rewards, on small checkpoints with random weights."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.rewards.vision.checkpoints import options_of
from torch import Tensor

from stepcredit.config import RewardSection
from stepcredit.errors import InputError
from stepcredit.rewards import REWARDS, CheckedReward, build_reward
from stepcredit.rewards.core.text_limits import reward_text_limits

ROUNDING = {
    "aesthetic": 0.01,
    "clipscore": 2.0,
    "hpsv2": 0.02,
    "hpsv2.1": 0.02,
    "imagereward": 0.05,
    "pickscore": 2.0,
}
"""Largest difference of bfloat16 from float32: a cosine is within 0.02."""

PROMPTS = ["a cat", "two red dogs on a mat", "x", "the sea at night", "a"]
PIXELS = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (5, 40, 33, 3), dtype=np.uint8))
IMAGES = PIXELS.permute(0, 3, 1, 2).float() / 255 * torch.tensor([1.0, 0.2, 0.5, 0.8, 1.0]).view(5, 1, 1, 1)


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    return {name: options_of(name, tmp_path_factory.mktemp("weights")) for name in ROUNDING}


@pytest.fixture(params=ROUNDING)
def name(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


def build(name: str, options: dict[str, dict[str, Any]], **more: Any) -> CheckedReward:
    return build_reward(RewardSection(name=name, options={**options[name], "device": "cpu", **more}))


def score(reward: Any, images: Any = IMAGES, prompts: list[str] = PROMPTS) -> Tensor:
    scores: Tensor = reward(images, prompts, [{}] * len(prompts))
    return scores


def tolerance(name: str) -> dict[str, float]:
    """Of float32: 1e-5 of the range of the score."""
    return {"atol": 1e-3 if name in ("clipscore", "pickscore") else 1e-5, "rtol": 0}


def test_scores_do_not_depend_on_the_batch(name: str, options: dict[str, dict[str, Any]]) -> None:
    together = score(build(name, options))
    reward = build(name, options, batch_size=2)
    alone = torch.cat([score(reward, IMAGES[row : row + 1], PROMPTS[row : row + 1]) for row in range(5)])
    torch.testing.assert_close(alone, together, **tolerance(name))
    torch.testing.assert_close(score(reward), together, **tolerance(name))
    assert together.unique().numel() > 1


def test_bfloat16_is_near_float32(name: str, options: dict[str, dict[str, Any]]) -> None:
    exact, rounded = score(build(name, options)), score(build(name, options, dtype="bfloat16"))
    assert rounded.dtype == torch.float32
    assert 0 < (rounded - exact).abs().max() < ROUNDING[name]


def test_types_of_images_agree(name: str, options: dict[str, dict[str, Any]]) -> None:
    reward = build(name, options).reward
    expected = score(reward, [Image.fromarray(image.numpy()) for image in PIXELS])
    images = PIXELS.permute(0, 3, 1, 2)
    assert torch.equal(score(reward, images), expected)
    assert torch.equal(score(reward, images.float() / 255), expected)


def test_pil_images_of_different_sizes(name: str, options: dict[str, dict[str, Any]]) -> None:
    reward = build(name, options).reward
    pictures = [Image.fromarray(PIXELS[row, : 40 - 5 * row].numpy()) for row in range(3)]
    alone = [score(reward, [picture], [prompt]) for picture, prompt in zip(pictures, PROMPTS, strict=False)]
    torch.testing.assert_close(score(reward, pictures, PROMPTS[:3]), torch.cat(alone), **tolerance(name))


def test_scores_have_no_gradient(name: str, options: dict[str, dict[str, Any]]) -> None:
    scores = score(build(name, options), IMAGES.clone().requires_grad_())
    assert not scores.requires_grad and not scores.is_inference()
    assert scores.shape == (5,) and scores.dtype == torch.float32


def test_scores_are_reproducible_and_images_unchanged(name: str, options: dict[str, dict[str, Any]]) -> None:
    before = IMAGES.clone()
    reward = build(name, options)
    assert torch.equal(score(reward), score(reward)) and torch.equal(IMAGES, before)


def test_only_the_aesthetic_score_ignores_the_prompt(name: str, options: dict[str, dict[str, Any]]) -> None:
    reward = build(name, options)
    images = IMAGES[1:2].expand(5, -1, -1, -1)
    scores = score(reward, images)
    assert (scores.max() - scores.min() < tolerance(name)["atol"]) == (name == "aesthetic")


def test_prompts_count_as_cut_if_and_only_if_their_end_has_no_effect(
    name: str, options: dict[str, dict[str, Any]]
) -> None:
    reward = build(name, options)
    limits = reward_text_limits(reward)
    if name == "aesthetic":
        assert limits == []
        return
    (limit,) = limits
    assert limit.name == name
    text = "a b c d e f g h " * 12
    first = next(length for length in range(1, len(text)) if limit.cut([text[:length] + "b"]))
    for length, cut in ((first - 2, False), (first + 2, True)):
        assert bool(limit.cut([text[:length] + "b"])) == cut
        one, other = (score(reward, IMAGES[:1], [text[:length] + end]) for end in "bc")
        assert torch.equal(one, other) == cut


def test_an_empty_batch(name: str, options: dict[str, dict[str, Any]]) -> None:
    assert score(build(name, options), IMAGES[:0], []).shape == (0,)


@pytest.mark.parametrize(
    ("option", "value"), [("dtype", "float8"), ("device", "gpu"), ("batch_size", 0), ("path", "/no/such/folder")]
)
def test_invalid_options(name: str, option: str, value: Any, options: dict[str, dict[str, Any]]) -> None:
    with pytest.raises(InputError, match=str(value)):
        build(name, options, **{option: value})


def test_default_options(name: str) -> None:
    parameters = inspect.signature(REWARDS.get(name)).parameters
    common = {"revision": None, "dtype": "float32", "device": "auto", "batch_size": 16}
    assert {option: parameters[option].default for option in common} == common
    card = REWARDS.get(name).CARD  # type: ignore[attr-defined]
    assert card.weights.startswith(parameters["path"].default)
