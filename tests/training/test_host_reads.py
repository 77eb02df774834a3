"""No step of a rollout or of an update waits for the device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.algorithms.test_ppo import SCALER
from tests.families.proof import moved
from tests.tiny import PROMPTS, SEEDS, experienced
from tests.training.host_reads import HostReads
from torch import Tensor

from stepcredit.algorithms import build_algorithm
from stepcredit.algorithms.gradient import accumulate_gradient
from stepcredit.algorithms.minibatch import UpdatePart
from stepcredit.config import TrainSection
from stepcredit.policy.pipeline import PipelinePolicy
from stepcredit.types import Plan, Trajectory, Transition

COUNT = len(PROMPTS)
PLAN = Plan(3, range(3), batch=2)


def on_the_device(policy: PipelinePolicy) -> list[Tensor]:
    """What a rollout begins with there."""
    denoiser = getattr(policy.pipeline, policy.denoiser)
    return [*denoiser.state_dict(keep_vars=True).values(), policy.scheduler.timesteps]


def reads_of_an_update(policy: PipelinePolicy, trajectory: Trajectory, **options: Any) -> list[str]:
    given = TrainSection(**{"updates_per_epoch": 1, **options})
    experience = experienced(trajectory, torch.ones(COUNT, trajectory.steps))
    tensors = [
        *on_the_device(policy),
        trajectory.latents,
        trajectory.log_probs,
        trajectory.timesteps,
        experience.step_advantages,
    ]
    with HostReads(tensors) as reads:
        accumulate_gradient(
            build_algorithm(given), policy, SCALER, experience, UpdatePart(torch.arange(COUNT), COUNT, first=True), 3
        )
    assert all(parameter.grad is not None for parameter in policy.parameters())
    return reads.found  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", ["sd", "sd3"])
def test_a_rollout_and_an_update_read_nothing_of_the_device(name: str) -> None:
    policy = moved(name)
    policy.rollout(PROMPTS, SEEDS, PLAN)  # makes the schedule
    with HostReads(on_the_device(policy)) as reads:
        trajectory = policy.rollout(PROMPTS, SEEDS, PLAN, keep_x0=True).trajectory
        assert (
            reads.touches(trajectory.latents) and reads.touches(trajectory.log_probs) and reads.touches(trajectory.x0)
        )
    assert reads.found == []
    assert reads_of_an_update(policy, trajectory) == []
    assert reads_of_an_update(policy, trajectory, kl_weight=0.1) == []


class Reading(PipelinePolicy):
    """Reads what it has computed."""

    read: Callable[[Tensor], Any]

    def replay(self, trajectory: Trajectory, step: int | Tensor, rows: Tensor | None = None) -> Transition:
        transition = super().replay(trajectory, step, rows)
        self.read(transition.mean.detach())
        return transition


@pytest.mark.parametrize(
    ("read", "name"),
    [
        (lambda mean: float(mean.sum()), "_local_scalar_dense"),
        (lambda mean: mean.isnan().any().item(), "_local_scalar_dense"),
        (lambda mean: 1 if mean.isnan().any() else 0, "_local_scalar_dense"),
        (lambda mean: torch.arange(3)[mean.sum().long() * 0], "_local_scalar_dense"),
        (lambda mean: mean[mean > 0], "index"),
        (lambda mean: mean.cpu(), "cpu"),
        (lambda mean: mean.flatten()[:2].tolist(), "tolist"),
        (lambda mean: torch.equal(mean, mean), "equal"),
    ],
)
def test_a_read_is_found(read: Callable[[Tensor], Any], name: str) -> None:
    policy = moved("sd")
    trajectory = policy.rollout(PROMPTS[:COUNT], SEEDS, Plan(1, range(1))).trajectory
    policy.__class__ = Reading  # type: ignore[assignment]
    policy.read = read  # type: ignore[attr-defined]
    found = reads_of_an_update(policy, trajectory)
    assert len(found) >= 2 and set(found) == {name}
