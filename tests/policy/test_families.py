"""Every family of pipelines trains exactly what it samples, and gives its weights back to stock diffusers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor
from tests.families import FAMILIES
from tests.families.proof import idle, moved, raised, stock_difference
from tests.tiny import PROMPTS, SEEDS
from torch.overrides import TorchFunctionMode

from stepcredit.policy.checks.replay_check import replay_check
from stepcredit.policy.pipeline import PipelinePolicy
from stepcredit.types import Plan, Trajectory


@pytest.mark.parametrize("name", FAMILIES)
def test_replays_of_every_step_are_exact(name: str) -> None:
    policy = moved(name)
    trajectory = policy.rollout(PROMPTS, SEEDS, Plan(4, range(4), batch=2)).trajectory
    check = replay_check(policy, trajectory, batch=2)
    assert check.max_deviation == 0.0
    assert check.trained[:3] == (0, 1, 2)
    assert check.mode == ("full-loop" if name == "sd3-skip-layer-guidance" else "mixed-steps")
    check_rows(policy, trajectory)


@pytest.mark.parametrize("name", FAMILIES)
def test_replays_in_full_loop_mode_are_exact(name: str) -> None:
    policy = moved(name)
    trajectory = policy.rollout(PROMPTS, SEEDS).trajectory
    policy.replay_modes = ("full-loop",)
    assert replay_check(policy, trajectory).max_deviation == 0.0
    check_rows(policy, trajectory)


def check_rows(policy: PipelinePolicy, trajectory: Trajectory) -> None:
    """Rows alone are those of the whole batch, but for rounding."""
    rows = torch.tensor([2, 0, 3])
    for step in range(trajectory.steps):
        torch.testing.assert_close(
            policy.replay(trajectory, step, rows).mean, policy.replay(trajectory, step).mean[rows], atol=1e-4, rtol=1e-4
        )


@pytest.mark.parametrize("name", FAMILIES)
def test_a_gradient_reaches_everything_that_is_trained(name: str) -> None:
    policy = moved(name)
    assert len(policy.parameters()) > 8
    assert idle(policy, step=1) == 0


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in ("sd", "sana") else pytest.mark.slow) for name in FAMILIES]
)
def test_two_epochs_raise_a_simple_reward(name: str) -> None:
    before, after = raised(name)
    assert after > before


@pytest.mark.parametrize("name", FAMILIES)
def test_a_rollout_without_noise_gives_the_stock_pipeline_s_images(name: str) -> None:
    assert stock_difference(name) < 1e-5


@pytest.mark.parametrize("name", FAMILIES)
def test_the_batch_size_does_not_change_an_image(name: str) -> None:
    """Text of another length, a batch as long as a sequence, or a filled-up batch leave an image as it is."""
    policy = moved(name)
    whole = policy.rollout(PROMPTS, SEEDS).trajectory
    split = policy.rollout(PROMPTS, SEEDS, Plan(4, range(4), batch=3)).trajectory
    torch.testing.assert_close(split.latents, whole.latents, atol=1e-4, rtol=1e-4)


class Called(TorchFunctionMode):
    """Notes the names of all functions of torch that are called."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(getattr(function, "__name__", ""))
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", FAMILIES)
def test_attention_is_scaled_dot_product_attention(name: str) -> None:
    """Scaled-dot-product attention, which never holds the matrix of all pairs; a softmax would be one made by hand."""
    policy = moved(name)
    trajectory = policy.rollout(PROMPTS[:1], SEEDS[:1], Plan(1, range(1))).trajectory
    with Called() as called:
        policy.replay(trajectory, 0)
    assert "scaled_dot_product_attention" in called.names
    assert "softmax" not in called.names


def test_the_attention_test_detects_softmax_attention() -> None:
    policy = moved("sd")
    trajectory = policy.rollout(PROMPTS[:1], SEEDS[:1], Plan(1, range(1))).trajectory
    policy.pipeline.unet.set_attn_processor(AttnProcessor())
    with Called() as called:
        policy.replay(trajectory, 0)
    assert "scaled_dot_product_attention" not in called.names and "softmax" in called.names
