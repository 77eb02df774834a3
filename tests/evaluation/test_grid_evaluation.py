"""Scored samples at fixed prompts and seeds."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from tests.toy_policy import ToyPolicy
from torch import Tensor

from stepcredit.evaluation import evaluate
from stepcredit.rewards.warmth import Warmth
from stepcredit.types import Prompt

PROMPTS = [Prompt("a lake", {"number": 0}), Prompt("a hill", {"number": 1})]


def warmth(images: Tensor, prompts: Sequence[Prompt]) -> Tensor:
    return Warmth()(images, [prompt.text for prompt in prompts], [prompt.metadata for prompt in prompts])


def test_prompts_are_cycled_and_every_image_has_its_own_noise() -> None:
    seen = evaluate(ToyPolicy(), warmth, PROMPTS, 5, seed=0)
    assert [prompt.text for prompt in seen.prompts] == ["a lake", "a hill", "a lake", "a hill", "a lake"]
    assert seen.images.shape == (5, 3, 8, 8)
    assert len({float(score) for score in seen.scores}) == 5


def test_fewer_images_than_prompts_use_the_first_prompts() -> None:
    assert [prompt.text for prompt in evaluate(ToyPolicy(), warmth, PROMPTS, 1, seed=0).prompts] == ["a lake"]


def test_equal_weights_and_seed_give_equal_images() -> None:
    policy = ToyPolicy()
    before, again = (evaluate(policy, warmth, PROMPTS, 4, seed=3) for _ in range(2))
    with torch.no_grad():
        policy.target.fill_(1.0)
    after = evaluate(policy, warmth, PROMPTS, 4, seed=3)
    assert torch.equal(before.images, again.images)
    assert (after.scores > before.scores).all()
    assert not torch.equal(before.images, evaluate(ToyPolicy(), warmth, PROMPTS, 4, seed=4).images)


def test_captions_hold_prompt_and_score() -> None:
    seen = evaluate(ToyPolicy(), warmth, PROMPTS, 2, seed=0)
    assert torch.equal(seen.scores, warmth(seen.images, PROMPTS))
    assert seen.captions() == [f"a lake\n{seen.scores[0]:.3f}", f"a hill\n{seen.scores[1]:.3f}"]


def test_an_error_of_the_score_is_raised() -> None:
    def fail(images: Tensor, prompts: Sequence[Prompt]) -> Tensor:
        raise ValueError("no judge")

    with pytest.raises(ValueError, match="no judge"):
        evaluate(ToyPolicy(), fail, PROMPTS, 2, seed=0)
