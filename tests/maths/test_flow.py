import math
from dataclasses import fields

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from stepcredit.maths import Transition, gaussian
from stepcredit.maths.flow import flow_step


def _latents(batch: int = 3, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    """(x0, x1)"""
    return tuple(torch.randn(2, batch, 4, 5, 5, generator=torch.Generator().manual_seed(0), dtype=dtype))


def _at(sigma: float) -> tuple[torch.Tensor, torch.Tensor]:
    """(exact velocity, latent) at a noise level."""
    x0, x1 = _latents()
    return x1 - x0, (1 - sigma) * x0 + sigma * x1


def test_steps_of_literals():
    # x0 = 2 and x1 = -1 at sigma .6: x = .8 - .6, v = -3; to sigma .5.
    step = flow_step(torch.full((1, 1), -3.0), torch.full((1, 1), 0.2), 0.6, 0.5)
    torch.testing.assert_close(step.x0, torch.tensor([[2.0]]))
    torch.testing.assert_close(step.x1, torch.tensor([[-1.0]]))
    ode = step.euler()
    assert ode.std == 0
    torch.testing.assert_close(ode.mean, torch.tensor([[0.5]]))

    mixed = step.mix(torch.tensor(0.25), torch.tensor(0.1))
    torch.testing.assert_close(mixed.mean, torch.tensor([[1.0 - 0.25]]))
    assert mixed.std == torch.tensor(0.1) and torch.equal(mixed.x0, step.x0)

    # c = .5 - .09 * .1 / 1.2 and std = sqrt(.009).
    diffused = step.diffuse(torch.tensor(0.3))
    torch.testing.assert_close(diffused.mean, torch.tensor([[1.0 - 0.4925]]))
    torch.testing.assert_close(diffused.std, torch.tensor(math.sqrt(0.009)))


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_euler_is_bitwise_every_step_of_diffusers(shift):
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(12)
    x, v = _latents(dtype=torch.float32)
    for i, t in enumerate(scheduler.timesteps):
        sigma, sigma_next = scheduler.sigmas[i], scheduler.sigmas[i + 1]
        step = flow_step(v, x, sigma, sigma_next).euler()
        stock = scheduler.step(v, t, x).prev_sample
        assert torch.equal(step.mean, stock)
        assert torch.equal(step.x0, x - sigma * v)
        assert torch.equal(gaussian.sample(step, torch.ones_like(x)), stock)
        x, v = stock, v + 0.1 * stock


@pytest.mark.parametrize("diffusion", [0.3, 10.0])
@pytest.mark.parametrize("levels", [(1.0, 0.9), (0.6, 0.5), (0.2, 0.0)])
def test_the_noise_after_an_sde_step(levels, diffusion):
    """c^2 + std^2 = s'^2 + std^2 (s - s') / s + std^4 / (4 s^2)."""
    (sigma, following), (x0, x1) = levels, _latents()
    step = flow_step(*_at(sigma), *levels).diffuse(torch.tensor(diffusion, dtype=torch.float64))
    rest = step.mean - (1 - following) * x0
    coefficient, variance = float((rest * x1).sum() / (x1 * x1).sum()), float(step.std) ** 2
    torch.testing.assert_close(rest, coefficient * x1)
    expected = following**2 + variance * (sigma - following) / sigma + variance**2 / (4 * sigma**2)
    assert coefficient**2 + variance == pytest.approx(expected, rel=1e-9)


def test_levels_per_sample():
    step = flow_step(*_at(0.6), torch.tensor([1.0, 0.6, 0.2]), torch.tensor([0.9, 0.5, 0.0]))
    assert step.euler().std.shape == (3, 1, 1, 1)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    v, x = (tensor.to(dtype) for tensor in _at(0.6))
    step, full = (flow_step(w, y, torch.tensor(0.6), 0.5).euler() for w, y in ((v, x), (v.float(), x.float())))
    for field in fields(Transition):
        assert torch.equal(getattr(step, field.name), getattr(full, field.name))
        assert getattr(step, field.name).dtype == torch.float32


@pytest.mark.parametrize(("sigma", "following"), [(0.5, 0.5), (0.5, 0.6), (0.5, -0.1), (1.1, 0.5), (math.nan, 0.5)])
def test_noise_levels_that_do_not_fall_are_refused(sigma, following):
    v, x = _at(0.6)
    for level in (sigma, torch.tensor([0.9, sigma, 0.9])):
        with pytest.raises(ValueError, match="expected 0 <= sigma_next < sigma <= 1"):
            flow_step(v, x, level, following)


@pytest.mark.parametrize(("sigma", "second", "usable"), [(1.0, 0.9, True), (1.0, 1.0, False), (0.9, 1.0, True)])
def test_the_second_level_must_be_below_one_at_the_first_step_only(sigma, second, usable):
    assert (flow_step(*_at(sigma), sigma, 0.5, second).sigma_second is not None) == usable


def test_wrong_shapes_are_refused():
    v, x = _at(0.6)
    with pytest.raises(ValueError, match="velocity has shape"):
        flow_step(v[:1], x, 0.6, 0.5)
    with pytest.raises(ValueError, match=r"sigma has shape \(2,\), expected \(3,\)"):
        flow_step(v, x, torch.tensor([0.6, 0.6]), 0.5)
