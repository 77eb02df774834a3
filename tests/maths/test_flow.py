import math
from dataclasses import fields

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch.distributions import Normal

from stepcredit.maths import Transition, flow, gaussian

SAMPLERS = tuple(flow.SAMPLERS)
# sigma, sigma_next: the first step of a trajectory, one in the middle, the last.
LEVELS = ((1.0, 0.9), (0.6, 0.5), (0.2, 0.0))
NOISE = 0.7


def _latents(batch: int = 3, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    """(x0, x1)"""
    return tuple(torch.randn(2, batch, 4, 5, 5, generator=torch.Generator().manual_seed(0), dtype=dtype))


def _at(sigma: float, batch: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    """(exact velocity, latent) at a noise level."""
    x0, x1 = _latents(batch)
    return x1 - x0, (1 - sigma) * x0 + sigma * x1


def _kept(step: Transition, sigma_next: float) -> float:
    """The coefficient of x1 in the mean of a step from `_at`."""
    x0, x1 = _latents(step.mean.shape[0])
    left = step.mean - (1 - sigma_next) * x0
    coefficient = float((left * x1).sum() / (x1 * x1).sum())
    torch.testing.assert_close(left, coefficient * x1)
    return coefficient


def test_steps_of_literals():
    # x0 = 2 and x1 = -1 at sigma .6: x = .8 - .6, v = -3; to sigma .5.
    v, x = torch.full((1, 1), -3.0), torch.full((1, 1), 0.2)
    ode = flow.euler(v, x, 0.6, 0.5)
    assert ode.std == 0
    torch.testing.assert_close(ode.x0, torch.tensor([[2.0]]))
    torch.testing.assert_close(ode.mean, torch.tensor([[0.5]]))

    # k^2 = .49 * .6 / .4 = .735, so c = .5 - .735 * .1 / 1.2 = .43875 and std = sqrt(.0735).
    sde = flow.flow_sde(v, x, 0.6, 0.5, 0.7)
    torch.testing.assert_close(sde.mean, torch.tensor([[1.0 - 0.43875]]))
    torch.testing.assert_close(sde.std, torch.tensor(math.sqrt(0.0735)))
    torch.testing.assert_close(sde.x0, torch.tensor([[2.0]]))

    # c = .5 - .09 * .1 / 1.2 = .4925 and std = sqrt(.009).
    dance = flow.dance_sde(v, x, 0.6, 0.5, 0.3)
    torch.testing.assert_close(dance.mean, torch.tensor([[1.0 - 0.4925]]))
    torch.testing.assert_close(dance.std, torch.tensor(math.sqrt(0.009)))

    # A third of a right angle: c = .5 cos 30, std = .5 sin 30.
    kept = flow.cps(v, x, 0.6, 0.5, 1 / 3)
    torch.testing.assert_close(kept.mean, torch.tensor([[1.0 - 0.5 * math.sqrt(0.75)]]))
    torch.testing.assert_close(kept.std, torch.tensor(0.25))


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_euler_is_bitwise_every_step_of_diffusers(shift):
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(12)
    x, v = _latents(dtype=torch.float32)
    for i, t in enumerate(scheduler.timesteps):
        sigma, sigma_next = scheduler.sigmas[i], scheduler.sigmas[i + 1]
        step = flow.euler(v, x, sigma, sigma_next)
        stock = scheduler.step(v, t, x).prev_sample
        assert torch.equal(step.mean, stock)
        assert torch.equal(step.x0, x - sigma * v)
        assert torch.equal(gaussian.sample(step, torch.ones_like(x)), stock)
        x, v = stock, v + 0.1 * stock


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_without_noise_a_transition_is_exactly_euler(sampler):
    v, x = (tensor.float() for tensor in _at(0.6))
    still, ode = flow.transition(v, x, 0.6, 0.5, 0.0, sampler), flow.euler(v, x, 0.6, 0.5)
    for field in fields(Transition):
        assert torch.equal(getattr(still, field.name), getattr(ode, field.name))


@pytest.mark.parametrize("levels", LEVELS)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_vanishing_noise_is_the_limit_of_euler(sampler, levels):
    v, x = _at(levels[0])
    ode = flow.euler(v, x, *levels)
    torch.testing.assert_close(flow.SAMPLERS[sampler](v, x, *levels, 0.0).mean, ode.mean)
    errors = [(flow.transition(v, x, *levels, a, sampler).mean - ode.mean).norm() for a in (1e-2, 1e-3)]
    assert errors[1] <= errors[0] / 90 or errors[0] < 1e-12
    assert flow.transition(v, x, *levels, 1e-3, sampler).std < 1e-2


@pytest.mark.parametrize("levels", LEVELS)
def test_flow_sde_is_the_published_step(levels):
    (sigma, following), (v, x) = levels, _at(levels[0])
    # The released code puts the second noise level, here the next one, for sigma = 1.
    k = NOISE * math.sqrt(sigma / (1 - (following if sigma == 1 else sigma)))
    d = sigma - following
    step = flow.flow_sde(v, x, sigma, following, NOISE)
    mean = x * (1 - k**2 * d / (2 * sigma)) - v * (1 + k**2 * (1 - sigma) / (2 * sigma)) * d
    torch.testing.assert_close(step.mean, mean, rtol=1e-12, atol=1e-12)
    assert float(step.std) == pytest.approx(k * math.sqrt(d), rel=1e-12)


@pytest.mark.parametrize("levels", LEVELS)
def test_dance_sde_is_the_published_step(levels):
    (sigma, following), (v, x) = levels, _at(levels[0])
    d, x0 = sigma - following, x - sigma * v
    step = flow.dance_sde(v, x, sigma, following, 0.3)
    mean = x - (v + 0.5 * 0.09 * (x - (1 - sigma) * x0) / sigma**2) * d
    torch.testing.assert_close(step.mean, mean, rtol=1e-12, atol=1e-12)
    assert float(step.std) == pytest.approx(0.3 * math.sqrt(d), rel=1e-12)


@pytest.mark.parametrize("levels", LEVELS)
@pytest.mark.parametrize("noise_level", [0.0, 0.3, 0.7, 1.0])
def test_cps_keeps_the_noise_level(levels, noise_level):
    step = flow.cps(*_at(levels[0]), *levels, noise_level)
    kept = _kept(step, levels[1])
    assert kept**2 + float(step.std) ** 2 == pytest.approx(levels[1] ** 2, abs=1e-12)
    assert float(step.std) == pytest.approx(levels[1] * math.sin(noise_level * math.pi / 2), abs=1e-12)


@pytest.mark.parametrize("levels", LEVELS)
@pytest.mark.parametrize("sampler", ["flow-sde", "dance-sde"])
def test_the_sdes_leave_more_noise_than_the_next_level(sampler, levels):
    step = flow.transition(*_at(levels[0]), *levels, NOISE, sampler)
    variance, share = float(step.std) ** 2, (levels[0] - levels[1]) / levels[0]
    left = _kept(step, levels[1]) ** 2 + variance
    # c = s' - std^2 / (2 s).
    assert left == pytest.approx(levels[1] ** 2 + variance * share + variance**2 / (4 * levels[0] ** 2), rel=1e-9)
    assert left > levels[1] ** 2


def test_the_noise_of_flow_sde_from_sixty_to_fifty_percent():
    step = flow.flow_sde(*_at(0.6), 0.6, 0.5, 0.7)
    assert math.hypot(_kept(step, 0.5), float(step.std)) == pytest.approx(0.516, abs=5e-4)


@pytest.mark.parametrize("levels", LEVELS)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_exact_velocity_recovers_the_clean_latent(sampler, levels):
    v, x = _at(levels[0])
    step = flow.transition(v, x, *levels, NOISE, sampler)
    torch.testing.assert_close(step.x0, _latents()[0])
    assert torch.equal(step.output, v)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_drawing_reproduces_the_density(sampler):
    v, x = (tensor.repeat_interleave(400, 0) for tensor in _at(0.6))
    step = flow.transition(v, x, 0.6, 0.5, 0.7, sampler)
    drawn = gaussian.sample(step, torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=x.dtype))
    expected = Normal(step.mean, step.std).log_prob(drawn).flatten(1).mean(1)
    torch.testing.assert_close(gaussian.log_prob(drawn, step.mean, step.std), expected)
    # Five standard errors of 400 draws of each element, and of the 120,000 altogether.
    moved = (drawn - step.mean).reshape(3, 400, -1)
    assert (moved.mean(1).abs() < 5 * step.std / 400**0.5).all()
    assert abs(float(moved.std() / step.std) - 1) < 5 / (2 * moved.numel()) ** 0.5


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_noise_levels_per_sample_agree_with_one_call_each(sampler):
    v, x = _at(0.6)
    sigma, following = torch.tensor([1.0, 0.6, 0.2]), torch.tensor([0.9, 0.5, 0.0])
    batch = flow.transition(v, x, sigma, following, NOISE, sampler)
    assert batch.std.shape == (3, 1, 1, 1)
    for i in range(3):
        one = flow.transition(v[i : i + 1], x[i : i + 1], sigma[i], following[i], NOISE, sampler)
        assert one.std.shape == ()
        for name in ("mean", "x0", "output"):
            torch.testing.assert_close(getattr(batch, name)[i], getattr(one, name)[0])
        torch.testing.assert_close(batch.std[i].squeeze(), one.std)
    assert flow.euler(v, x, sigma, following).std.shape == (3, 1, 1, 1)


def test_cps_ends_without_noise_at_the_clean_latent():
    v, x = (tensor.float() for tensor in _at(0.2))
    step = flow.cps(v, x, 0.2, 0.0, NOISE)
    assert step.std == 0
    assert torch.equal(step.mean, step.x0)
    assert torch.equal(gaussian.log_prob(x, step.mean, step.std), torch.zeros(3))


@pytest.mark.parametrize(("sampler", "noise"), [("flow-sde", 0.2 / 0.8**0.5), ("dance-sde", 0.2**0.5)])
def test_the_sdes_end_with_noise_in_the_latent(sampler, noise):
    step = flow.transition(*_at(0.2), 0.2, 0.0, NOISE, sampler)
    assert float(step.std) == pytest.approx(NOISE * noise)


@pytest.mark.parametrize("sigma_max", [None, 0.0])
def test_flow_sde_of_a_single_step_is_finite(sigma_max):
    step = flow.flow_sde(*_at(1.0), 1.0, 0.0, NOISE, sigma_max)
    assert float(step.std) == pytest.approx(NOISE)
    assert _kept(step, 0.0) == pytest.approx(-(NOISE**2) / 2)


def test_sigma_max_counts_at_one_only_and_rounding_counts_as_one():
    v, x = _at(1.0)
    step = flow.transition(v, x, 1.0, 0.9, NOISE, "flow-sde", 0.96)
    assert float(step.std) == pytest.approx(NOISE * math.sqrt(1 / 0.04 * 0.1))
    for rounded in (1 - 6e-8, 1 + 1.2e-7):
        near = flow.flow_sde(v, x, rounded, 0.9, NOISE, 0.96)
        torch.testing.assert_close(near.mean, step.mean, rtol=1e-5, atol=1e-5)
    below = flow.flow_sde(v, x, 0.98, 0.9, NOISE, 0.96)
    assert float(below.std) == pytest.approx(NOISE * math.sqrt(0.98 / 0.02 * 0.08))


def test_dance_with_more_noise_than_there_is_stays_finite():
    step = flow.dance_sde(*_at(0.6), 0.6, 0.0, 10.0)
    assert step.mean.isfinite().all()
    assert _kept(step, 0.0) == pytest.approx(-50)
    assert float(step.std) == pytest.approx(10 * math.sqrt(0.6))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_gradient_reaches_the_velocity(sampler):
    v, x = (tensor[:1, :1, :2, :2].clone() for tensor in _at(0.6))
    v.requires_grad_()

    def log_prob(velocity: torch.Tensor) -> torch.Tensor:
        step = flow.transition(velocity, x, 0.6, 0.5, NOISE, sampler)
        return gaussian.log_prob(x + 0.1, step.mean, step.std)

    assert torch.autograd.gradcheck(log_prob, v)
    assert flow.transition(v, x, 0.6, 0.5, NOISE, sampler).output.requires_grad


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("noise_level", [0.0, NOISE])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_half_precision_is_computed_in_float32(sampler, noise_level, dtype):
    v, x = (tensor.to(dtype) for tensor in _at(0.6))
    sigma = torch.tensor(0.6)
    step, full = (flow.transition(w, y, sigma, 0.5, noise_level, sampler) for w, y in ((v, x), (v.float(), x.float())))
    for field in fields(Transition):
        assert torch.equal(getattr(step, field.name), getattr(full, field.name))
        assert getattr(step, field.name).dtype == torch.float32


def test_a_noise_level_in_half_precision_or_float64_does_not_change_the_result():
    v, x = (tensor.float() for tensor in _at(0.5))
    expected = flow.flow_sde(v, x, 0.5, 0.25, NOISE)
    for dtype in (torch.bfloat16, torch.float64):
        step = flow.flow_sde(v, x, torch.tensor(0.5, dtype=dtype), torch.tensor(0.25, dtype=dtype), NOISE)
        assert torch.equal(step.mean, expected.mean)
        assert step.mean.dtype == step.std.dtype == torch.float32


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize(("sigma", "following"), [(0.5, 0.5), (0.5, 0.6), (0.5, -0.1), (1.1, 0.5), (math.nan, 0.5)])
def test_noise_levels_that_do_not_fall_are_refused(sampler, sigma, following):
    v, x = _at(0.6)
    for noise_level in (0.0, NOISE):
        with pytest.raises(ValueError, match="expected 0 <= sigma_next < sigma <= 1"):
            flow.transition(v, x, sigma, following, noise_level, sampler)
    with pytest.raises(ValueError, match="expected 0 <= sigma_next < sigma <= 1"):
        flow.euler(v, x, torch.tensor([0.9, sigma, 0.9]), following)


def test_bad_input_is_refused():
    v, x = _at(0.6)
    with pytest.raises(ValueError, match="velocity has shape"):
        flow.euler(v[:1], x, 0.6, 0.5)
    with pytest.raises(ValueError, match=r"sigma has shape \(2,\), expected \(3,\)"):
        flow.flow_sde(v, x, torch.tensor([0.6, 0.6]), 0.5, NOISE)
    with pytest.raises(ValueError, match=r"sigma_max is 1\.0, expected a number in \[0, 1\)"):
        flow.flow_sde(v, x, 1.0, 0.5, NOISE, 1.0)
    with pytest.raises(ValueError, match=r"sampler is 'sde', expected one of 'flow-sde', 'dance-sde', 'cps'"):
        flow.transition(v, x, 0.6, 0.5, NOISE, "sde")
    for sampler in SAMPLERS:
        for call in (flow.SAMPLERS[sampler], lambda *given, sampler=sampler: flow.transition(*given, sampler)):
            with pytest.raises(ValueError, match=r"noise_level is -0\.1"):
                call(v, x, 0.6, 0.5, -0.1)
    with pytest.raises(ValueError, match=r"noise_level is 1\.5, expected a number in \[0, 1\]"):
        flow.transition(v, x, 0.6, 0.5, 1.5, "cps")
    with pytest.raises(ValueError, match=r"noise_level is 1\.5, expected a number in \[0, 1\]"):
        flow.cps(v, x, 0.6, 0.5, 1.5)
