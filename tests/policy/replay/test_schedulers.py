"""What a policy says of its steps before anything is sampled is what its steps then are."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler
from tests.tiny import PROMPTS, SEEDS, tiny_policy, tiny_scheduler, tiny_sd

from stepcredit.config import SampleSection
from stepcredit.maths import Schedule, schedules
from stepcredit.policy.replay.schedulers import recording_scheduler
from stepcredit.types import Plan


def trajectory(stock: Any, steps: int, noises: list[float] | None = None, **sample: Any) -> Schedule:
    section = SampleSection(**sample)
    scheduler = recording_scheduler(stock, section)
    scheduler.set_timesteps(steps)
    return scheduler.schedule(noises or [scheduler.noise_scale(section)] * steps)


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


@pytest.mark.parametrize("set_alpha_to_one", [True, False])
def test_the_noise_levels_of_ddim_are_those_that_diffusers_adds_noise_at(set_alpha_to_one: bool) -> None:
    stock = tiny_scheduler(set_alpha_to_one=set_alpha_to_one)
    found = trajectory(stock, 4)
    assert found.alphas.dtype == found.sigmas.dtype == torch.float32
    stock.set_timesteps(4)
    x0, noise = torch.randn(2, 4, 1, 3, 3, generator=torch.Generator().manual_seed(0))
    expected = stock.add_noise(x0, noise, stock.timesteps)
    torch.testing.assert_close(schedules.noised(x0, noise, found.alphas[:-1], found.sigmas[:-1]), expected)
    torch.testing.assert_close(found.alphas[-1] ** 2, torch.as_tensor(stock.final_alpha_cumprod))
    torch.testing.assert_close(found.alphas**2 + found.sigmas**2, torch.ones(5))


def test_the_noise_levels_of_flows_are_those_that_diffusers_adds_noise_at() -> None:
    stock = FlowMatchEulerDiscreteScheduler(shift=3.0)
    found = trajectory(stock, 4)
    stock.set_timesteps(4)
    x0, noise = torch.randn(2, 4, 1, 3, 3, generator=torch.Generator().manual_seed(0))
    expected = stock.scale_noise(x0, stock.timesteps, noise)
    torch.testing.assert_close(schedules.noised(x0, noise, found.alphas[:-1], found.sigmas[:-1]), expected)
    assert (float(found.alphas[-1]), float(found.sigmas[-1])) == (1.0, 0.0)


def test_a_clean_prediction_is_exact_at_the_noise_level_of_every_step() -> None:
    """If the denoiser returns the noise itself, the predicted clean latents are those that were noised."""
    policy = tiny_policy(steps=3)
    scheduler, schedule = policy.scheduler, policy.rollout(PROMPTS[:1], SEEDS[:1]).trajectory.schedule
    x0, noise = torch.randn(2, 3, 4, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    latents = schedules.noised(x0, noise, schedule.alphas[:3], schedule.sigmas[:3])
    torch.testing.assert_close(scheduler.transition(noise, [0, 1, 2], latents, 0.0).x0, x0, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["epsilon", "sample", "v_prediction"])
def test_the_schedule_is_that_of_the_steps_taken(kind: str) -> None:
    pipeline = tiny_sd()
    pipeline.scheduler.register_to_config(prediction_type=kind)
    policy = tiny_policy(pipeline, steps=4, eta=0.8)
    trajectory = policy.rollout(PROMPTS[:2], SEEDS[:2], Plan(4, range(3), batch=1)).trajectory
    assert trajectory.schedule.stds[3] == 0 and trajectory.trainable.tolist() == [True, True, True, False]
    for step in range(4):
        transition = policy.replay(trajectory, step)
        gradient = torch.autograd.grad(transition.mean[0, 0, 0, 0], transition.output)[0][0, 0, 0, 0]
        torch.testing.assert_close(gradient.abs(), trajectory.schedule.output_scales[step], rtol=1e-4, atol=1e-6)
        stds = transition.std.detach().cpu().flatten()
        torch.testing.assert_close(stds, trajectory.schedule.stds[step].expand(2))


class Passing(DDIMScheduler):
    """A scheduler of the user's own that passes its arguments on."""

    def step(self, *args: Any, **kwargs: Any) -> Any:
        return super().step(*args, **kwargs)


class Renaming(DDIMScheduler):
    def step(self, noise: Any, t: Any, latents: Any, **kwargs: Any) -> Any:
        return super().step(noise, t, latents, **kwargs)


@pytest.mark.parametrize("kind", [Passing, Renaming])
def test_a_subclass_may_pass_on_or_rename_the_arguments_of_step(kind: Any) -> None:
    pipeline = tiny_sd()
    stock = tiny_policy(pipeline).rollout(PROMPTS[:1], SEEDS[:1]).images
    pipeline = tiny_sd()
    pipeline.scheduler = kind.from_config(pipeline.scheduler.config)
    assert torch.equal(tiny_policy(pipeline).rollout(PROMPTS[:1], SEEDS[:1]).images, stock)
