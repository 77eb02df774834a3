"""What every learned reward keeps to, on small checkpoints of random weights that the loading code itself reads."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from tests.rewards.vision.checkpoints import options_of
from torch import Tensor

from stepcredit.config import RewardSection
from stepcredit.errors import InputError
from stepcredit.rewards import REWARDS, CheckedReward, build_reward
from stepcredit.rewards.core.card import RewardCard

ROUNDING = {
    "aesthetic": 0.01,
    "clipscore": 2.0,
    "hpsv2": 0.02,
    "hpsv2.1": 0.02,
    "imagereward": 0.05,
    "pickscore": 2.0,
}
"""How far bfloat16 may be from float32; a cosine within 0.02."""

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
    """Of float32: 1e-5 of the range of a cosine, and of a score near 1."""
    return {"atol": 1e-3 if name in ("clipscore", "pickscore") else 1e-5, "rtol": 0}


def test_batched_is_one_by_one(name: str, options: dict[str, dict[str, Any]]) -> None:
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


def test_floats_bytes_and_pictures_agree(name: str, options: dict[str, dict[str, Any]]) -> None:
    reward = build(name, options).reward
    expected = score(reward, [Image.fromarray(image.numpy()) for image in PIXELS])
    images = PIXELS.permute(0, 3, 1, 2)
    assert torch.equal(score(reward, images), expected)
    assert torch.equal(score(reward, images.float() / 255), expected)


def test_pictures_of_different_sizes(name: str, options: dict[str, dict[str, Any]]) -> None:
    reward = build(name, options).reward
    pictures = [Image.fromarray(PIXELS[row, : 40 - 5 * row].numpy()) for row in range(3)]
    alone = [score(reward, [picture], [prompt]) for picture, prompt in zip(pictures, PROMPTS, strict=False)]
    torch.testing.assert_close(score(reward, pictures, PROMPTS[:3]), torch.cat(alone), **tolerance(name))


def test_scores_carry_no_gradient_and_are_plain_tensors(name: str, options: dict[str, dict[str, Any]]) -> None:
    scores = score(build(name, options), IMAGES.clone().requires_grad_())
    assert not scores.requires_grad and not scores.is_inference()
    assert scores.shape == (5,) and scores.dtype == torch.float32


def test_the_same_every_time(name: str, options: dict[str, dict[str, Any]]) -> None:
    before = IMAGES.clone()
    reward = build(name, options)
    assert torch.equal(score(reward), score(reward)) and torch.equal(IMAGES, before)


def test_only_the_aesthetic_score_ignores_the_prompt(name: str, options: dict[str, dict[str, Any]]) -> None:
    reward = build(name, options)
    images = IMAGES[1:2].expand(5, -1, -1, -1)
    scores = score(reward, images)
    assert (scores.max() - scores.min() < tolerance(name)["atol"]) == (name == "aesthetic")


def test_no_images(name: str, options: dict[str, dict[str, Any]]) -> None:
    assert score(build(name, options), IMAGES[:0], []).shape == (0,)


@pytest.mark.parametrize(
    ("option", "value"), [("dtype", "float8"), ("device", "gpu"), ("batch_size", 0), ("path", "/no/such/folder")]
)
def test_a_bad_option_is_told_before_training(
    name: str, option: str, value: Any, options: dict[str, dict[str, Any]]
) -> None:
    with pytest.raises(InputError, match=str(value)):
        build(name, options, **{option: value})


def test_published_weights_that_cannot_be_reached(name: str) -> None:
    """The tests have no network, so this is what the defaults come to."""
    with pytest.raises(InputError, match=r"no file or folder '.*', and the hub did not serve .*=FOLDER$"):
        build_reward(RewardSection(name=name))


def test_the_options_and_their_defaults(name: str) -> None:
    parameters = inspect.signature(REWARDS.get(name)).parameters
    common = {"revision": None, "dtype": "float32", "device": "auto", "batch_size": 16}
    assert {option: parameters[option].default for option in common} == common
    card = getattr(REWARDS.get(name), "CARD", None)
    assert isinstance(card, RewardCard) and card.weights.startswith(parameters["path"].default)


def test_every_recipe_names_a_reward_there_is() -> None:
    recipes = sorted((Path(__file__).parents[2] / "recipes").glob("sd15_*.yaml"))
    named = {yaml.safe_load(recipe.read_text())["reward"]["name"] for recipe in recipes}
    assert named == {"aesthetic", "hpsv2", "imagereward", "pickscore"}
    assert named <= set(REWARDS.names())
