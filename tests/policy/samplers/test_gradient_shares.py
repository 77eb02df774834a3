"""How the squared policy gradient is spread over the steps of each sampler."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from tests.families.proof import moved
from tests.tiny import PROMPTS, SEEDS

from stepcredit.config import SampleSection
from stepcredit.maths import Schedule, gaussian
from stepcredit.policy.replay.schedulers import recording_scheduler
from stepcredit.types import Plan


def schedule(sampler: str, noise_level: float = 0.7) -> Schedule:
    """Ten steps of Stable Diffusion 3, whose shift is 3."""
    section = SampleSection(sampler=sampler, noise_level=noise_level)
    scheduler = recording_scheduler(FlowMatchEulerDiscreteScheduler(shift=3.0), section)
    scheduler.set_timesteps(10)  # type: ignore[attr-defined]
    return scheduler.schedule([noise_level] * 10)


@pytest.mark.parametrize(
    ("sampler", "noise_level", "largest", "step"),
    [
        ("cps", 0.7, 0.215, 6),
        ("cps-gaussian", 0.7, 0.998, 9),
        ("flow-sde", 0.7, 0.476, 10),
        ("dance-sde", 0.3, 0.237, 9),
    ],
)
def test_the_largest_share_of_each_sampler(sampler: str, noise_level: float, largest: float, step: int) -> None:
    found = schedule(sampler, noise_level)
    shares = found.gradient_shares(found.stds > 1e-3)
    assert (round(float(shares.max()), 3), int(shares.argmax()) + 1) == (largest, step)
    assert float(shares.sum()) == pytest.approx(1)


def test_steps_that_are_not_trained_have_no_share() -> None:
    found = schedule("flow-sde")
    shares = found.gradient_shares(torch.arange(10) < 4)
    assert (shares[4:] == 0).all() and float(shares.sum()) == pytest.approx(1)
    assert (found.gradient_shares(torch.zeros(10, dtype=torch.bool)) == 0).all()


def test_cps_is_trained_on_the_squared_distance() -> None:
    """The released code has log p = -(x - mean)^2; it draws as the true density does."""
    released, true = (
        moved("sd3", sample={"sampler": sampler}).rollout(PROMPTS[:2], SEEDS[:2], Plan(3, range(3))).trajectory
        for sampler in ("cps", "cps-gaussian")
    )
    assert torch.equal(released.latents, true.latents)
    policy = moved("sd3", sample={"sampler": "cps"})
    transition, reached = policy.replay(released, 1), released.latents[:, 2]
    one, other = (gaussian.step_log_prob(transition, x) for x in (reached, reached + 0.1))
    squared = [((x - transition.mean) ** 2).flatten(1).mean(1) for x in (reached, reached + 0.1)]
    torch.testing.assert_close(one - other, squared[1] - squared[0], rtol=1e-4, atol=1e-5)
    assert torch.equal(gaussian.step_log_prob(replace(transition), reached), one)


@pytest.mark.parametrize("last", [False, True])
def test_the_last_step_of_a_flow_is_trained_if_asked_for(last: bool) -> None:
    policy = moved("sd3", sample={"train_last_step": last, "min_std": 0.0})
    trajectory = policy.rollout(PROMPTS[:1], SEEDS[:1], Plan(3, range(3))).trajectory
    assert trajectory.trainable.tolist() == [True, True, last]
    assert trajectory.log_probs[0, 2] != 0, "it is sampled with noise all the same"
    assert policy.rollout(PROMPTS[:1], SEEDS[:1], Plan(3, range(2, 3))).trajectory.trainable.tolist()[2]
