"""A gradient that is not the derivative of what is sampled is refused."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from tests.families import FAMILIES, hidream
from tests.families.proof import configuration, moved
from tests.tiny import PROMPTS, SEEDS, perturb, tiny_policy
from torch import Tensor, nn

from stepcredit.errors import InputError
from stepcredit.policy.checks import gradient_check
from stepcredit.policy.checks.gradient_check import require_derivative
from stepcredit.policy.checks.replay_check import replay_check
from stepcredit.policy.loading import make_policy
from stepcredit.types import Plan


@pytest.mark.parametrize("name", FAMILIES)
def test_the_gradients_of_every_family_are_derivatives(name: str) -> None:
    policy = moved(name)
    trajectory = policy.rollout(PROMPTS[:2], SEEDS[:2], Plan(3, range(3))).trajectory
    before = {key: value.clone() for key, value in policy.state_dict().items()}
    require_derivative(policy, trajectory, 1)
    assert all(torch.equal(value, before[key]) for key, value in policy.state_dict().items())
    assert all(weight.grad is None for weight in policy.parameters())


@pytest.mark.parametrize("adapter", ["lora", "full"])
def test_new_weights_pass_in_both_adapters(adapter: str) -> None:
    policy = tiny_policy(adapter=adapter)
    trajectory = policy.rollout(PROMPTS[:2], SEEDS[:2]).trajectory
    for step in range(4):
        require_derivative(policy, trajectory, step)


def partly_without_gradients(share: float) -> Any:
    """A forward hook that leaves the value and takes `share` of the gradient away, as experts under no_grad do."""

    def hook(_: nn.Module, __: Any, output: torch.Tensor) -> torch.Tensor:
        return output + share * (output.detach() - output)

    return hook


@pytest.mark.parametrize("adapter", ["lora", "full"])
@pytest.mark.parametrize("share", [0.15, 0.5])
def test_a_part_without_gradients_is_refused(adapter: str, share: float) -> None:
    policy = tiny_policy(adapter=adapter)
    trajectory = policy.rollout(PROMPTS, SEEDS).trajectory
    policy.pipeline.unet.conv_norm_out.register_forward_hook(partly_without_gradients(share))
    with pytest.raises(InputError, match="times as much as the gradient says"):
        replay_check(policy, trajectory)
    assert replay_check(policy, trajectory, gradient=False).max_deviation == 0


@pytest.mark.parametrize(("name", "seed"), [("sd3", 0), ("sd3", 1), ("flux", 0), ("z_image", 0), ("sana", 1)])
def test_rounding_in_half_precision_is_not_taken_for_a_wrong_gradient(name: str, seed: int) -> None:
    """A new LoRA changes these outputs by less than they are rounded, so that finite differences are 0 or noise."""
    pipeline = FAMILIES[name].build(seed).to(dtype=torch.bfloat16)
    policy = make_policy(pipeline, configuration(name, model={"dtype": "bfloat16"}))
    require_derivative(policy, policy.rollout(PROMPTS[:2], SEEDS[:2], Plan(3, range(3))).trajectory, 1)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_experts_of_hidream_are_refused(dtype: str) -> None:
    """They run under no_grad in eval mode. In half precision, their share of the gradient is within its tolerance."""
    pipeline = hidream.build(0).to(dtype=getattr(torch, dtype))
    config = configuration("hidream-without-experts", model={"dtype": dtype})
    policy = make_policy(pipeline, config)
    perturb(policy, 0.1)
    trajectory = policy.rollout(PROMPTS, SEEDS).trajectory
    with pytest.raises(InputError, match="HiDreamImageFeedForwardSwiGLU computes without gradients"):
        replay_check(policy, trajectory)


def test_an_output_that_is_too_rough_to_check_is_not_called_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Random numbers in every forward without gradients, of which no two finite differences agree."""
    policy, sign = tiny_policy(), itertools.cycle((1, -1, -1, 1))
    trajectory = policy.rollout(PROMPTS, SEEDS).trajectory
    assert "gradient not checked" not in str(replay_check(policy, trajectory))
    own = gradient_check._value

    def rough(*arguments: Any) -> Tensor:
        value = own(*arguments)
        return value if value.requires_grad else value * (1 + 0.5 * next(sign))

    monkeypatch.setattr(gradient_check, "_value", rough)
    assert "gradient not checked" in str(replay_check(policy, trajectory))


def test_weights_that_change_nothing_are_refused() -> None:
    policy = tiny_policy()
    trajectory = policy.rollout(PROMPTS, SEEDS).trajectory
    policy.pipeline.unet.conv_norm_out.register_forward_hook(partly_without_gradients(1.0))
    with pytest.raises(InputError, match="gradient of the trained weights is 0"):
        require_derivative(policy, trajectory, 1)
