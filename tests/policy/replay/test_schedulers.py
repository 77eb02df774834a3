"""What a policy says of its steps before anything is sampled is what its steps then are."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler
from tests.tiny import PROMPTS, SEEDS, tiny_policy, tiny_scheduler

from stepcredit.config import SampleSection
from stepcredit.maths import Schedule
from stepcredit.policy.replay.schedulers import recording_scheduler, sampling_schedule
from stepcredit.types import Plan


def trajectory(stock: Any, steps: int, noises: list[float] | None = None, **sample: Any) -> Schedule:
    section = SampleSection(**sample)
    scheduler = recording_scheduler(stock, section)
    scheduler.set_timesteps(steps)
    return sampling_schedule(scheduler, noises or [scheduler.noise_scale(section)] * steps)


@pytest.mark.parametrize("steps", [10, 20, 50])
def test_the_penultimate_step_of_stable_diffusion_outweighs_the_others(steps: int) -> None:
    native = trajectory(tiny_scheduler(), steps).native_scales
    assert int(native.argmax()) == steps - 2
    assert float(native[-2] / native.median()) == pytest.approx(7.8, abs=0.1)


def test_the_native_scales_of_fifty_steps_are_those_measured() -> None:
    native = trajectory(tiny_scheduler(), 50).native_scales
    assert float(native.min()) == pytest.approx(0.37, abs=5e-3)
    assert float(native.median()) == pytest.approx(0.42, abs=5e-3)
    assert float(native.max()) == pytest.approx(3.27, abs=6e-3)


@pytest.mark.parametrize("spacing", ["leading", "trailing"])
def test_ddim_steps_are_of_one_length(spacing: str) -> None:
    stock = DDIMScheduler(beta_schedule="scaled_linear", timestep_spacing=spacing)
    assert trajectory(stock, 8).step_sizes.tolist() == pytest.approx([1 / 8] * 8)


def test_flow_steps_are_as_long_as_the_noise_level_falls() -> None:
    stock = FlowMatchEulerDiscreteScheduler(shift=3.0)
    stock.set_timesteps(6)
    sizes = trajectory(stock, 6).step_sizes
    assert sizes.tolist() == pytest.approx((stock.sigmas[:-1] - stock.sigmas[1:]).tolist())
    assert float(sizes.sum()) == pytest.approx(1.0)


def test_a_step_that_draws_no_noise_has_no_native_scale() -> None:
    found = trajectory(FlowMatchEulerDiscreteScheduler(), 4, [0.7, 0.0, 0.7, 0.0])
    assert (found.stds > 0).tolist() == (found.native_scales > 0).tolist() == [True, False, True, False]
    assert (found.output_scales > 0).all()


@pytest.mark.parametrize("kind", ["epsilon", "sample", "v_prediction"])
def test_the_schedule_is_that_of_the_steps_taken(kind: str) -> None:
    policy = tiny_policy(steps=4, eta=0.8)
    policy.scheduler.register_to_config(prediction_type=kind)
    trajectory = policy.rollout(PROMPTS[:2], SEEDS[:2], Plan(4, range(3), batch=1)).trajectory
    assert trajectory.schedule.stds[3] == 0 and trajectory.trainable.tolist() == [True, True, True, False]
    for step in range(4):
        transition = policy.replay(trajectory, step)
        gradient = torch.autograd.grad(transition.mean[0, 0, 0, 0], transition.output)[0][0, 0, 0, 0]
        torch.testing.assert_close(gradient.abs(), trajectory.schedule.output_scales[step], rtol=1e-4, atol=1e-6)
        stds = transition.std.detach().cpu().flatten()
        torch.testing.assert_close(stds, trajectory.schedule.stds[step].expand(2))
