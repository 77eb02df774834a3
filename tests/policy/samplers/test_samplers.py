"""What every flow sampler guarantees, and each of them against its published formula."""

from __future__ import annotations

import math
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal

from stepcredit.config import SampleSection
from stepcredit.errors import InputError
from stepcredit.maths import Transition, gaussian
from stepcredit.maths.flow import flow_step
from stepcredit.policy.samplers import SAMPLERS, build_sampler

NAMES = SAMPLERS.names()
# sigma, sigma_next: the first step of a trajectory, one in the middle, the last.
LEVELS = ((1.0, 0.9), (0.6, 0.5), (0.2, 0.0))
NOISE = 0.7


def latents(batch: int = 3) -> tuple[Tensor, Tensor]:
    """(x0, x1)"""
    x0, x1 = torch.randn(2, batch, 4, 5, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return x0, x1


def at(sigma: float, batch: int = 3) -> tuple[Tensor, Tensor]:
    """(exact velocity, latent) at a noise level."""
    x0, x1 = latents(batch)
    return x1 - x0, (1 - sigma) * x0 + sigma * x1


def take(
    name: str,
    inputs: tuple[Tensor, Tensor],
    sigma: float | Tensor,
    following: float | Tensor,
    noise: float = NOISE,
    second: float | None = None,
) -> Transition:
    return SAMPLERS.get(name)(flow_step(*inputs, sigma, following, second), noise)


def noise_coefficient(step: Transition, following: float) -> float:
    """The coefficient of x1 in the mean of a step from `at`."""
    x0, x1 = latents(step.mean.shape[0])
    rest = step.mean - (1 - following) * x0
    coefficient = float((rest * x1).sum() / (x1 * x1).sum())
    torch.testing.assert_close(rest, coefficient * x1)
    return coefficient


# Every sampler


@pytest.mark.parametrize("levels", LEVELS)
@pytest.mark.parametrize("name", NAMES)
def test_vanishing_noise_is_the_limit_of_euler(name: str, levels: tuple[float, float]) -> None:
    inputs = at(levels[0])
    ode = flow_step(*inputs, *levels).euler()
    torch.testing.assert_close(take(name, inputs, *levels, 0.0).mean, ode.mean)
    errors = [float((take(name, inputs, *levels, noise).mean - ode.mean).norm()) for noise in (1e-2, 1e-3)]
    assert errors[1] <= errors[0] / 90 or errors[0] < 1e-12
    assert take(name, inputs, *levels, 1e-3).std < 1e-2


@pytest.mark.parametrize("levels", LEVELS)
@pytest.mark.parametrize("name", NAMES)
def test_exact_velocity_recovers_the_clean_latent(name: str, levels: tuple[float, float]) -> None:
    inputs = at(levels[0])
    step = take(name, inputs, *levels)
    torch.testing.assert_close(step.x0, latents()[0])
    assert torch.equal(step.output, inputs[0])


@pytest.mark.parametrize("levels", LEVELS)
@pytest.mark.parametrize("name", NAMES)
def test_the_mean_is_linear(name: str, levels: tuple[float, float]) -> None:
    """`maths.schedules.of_units` reads the scale of the output from a step of literals."""
    v, x = at(levels[0])
    unit = take(name, (torch.ones_like(v), torch.zeros_like(x)), *levels).mean
    other = take(name, (torch.zeros_like(v), x), *levels).mean
    torch.testing.assert_close(take(name, (v, x), *levels).mean, unit * v + other)


@pytest.mark.parametrize("name", NAMES)
def test_draws_have_the_density(name: str) -> None:
    v, x = (tensor.repeat_interleave(400, 0) for tensor in at(0.6))
    step = take(name, (v, x), 0.6, 0.5)
    drawn = gaussian.sample(step, torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=x.dtype))
    expected = Normal(step.mean, step.std).log_prob(drawn).flatten(1).mean(1)
    torch.testing.assert_close(gaussian.log_prob(drawn, step.mean, step.std), expected)
    # Five standard errors of 400 draws of each element, and of the 120,000 altogether.
    moved = (drawn - step.mean).reshape(3, 400, -1)
    assert (moved.mean(1).abs() < 5 * step.std / 400**0.5).all()
    assert abs(float(moved.std() / step.std) - 1) < 5 / (2 * moved.numel()) ** 0.5


@pytest.mark.parametrize("name", NAMES)
def test_noise_levels_per_sample_agree_with_one_call_each(name: str) -> None:
    v, x = at(0.6)
    sigma, following = torch.tensor([1.0, 0.6, 0.2]), torch.tensor([0.9, 0.5, 0.0])
    batch = take(name, (v, x), sigma, following)
    assert batch.std.shape == (3, 1, 1, 1)
    for i in range(3):
        one = take(name, (v[i : i + 1], x[i : i + 1]), sigma[i], following[i])
        assert one.std.shape == ()
        for field in ("mean", "x0", "output"):
            torch.testing.assert_close(getattr(batch, field)[i], getattr(one, field)[0])
        torch.testing.assert_close(batch.std[i].squeeze(), one.std)


@pytest.mark.parametrize("name", NAMES)
def test_the_gradient_reaches_the_velocity(name: str) -> None:
    v, x = (tensor[:1, :1, :2, :2].clone() for tensor in at(0.6))
    v.requires_grad_()

    def log_prob(velocity: Tensor) -> Tensor:
        step = take(name, (velocity, x), 0.6, 0.5)
        return gaussian.log_prob(x + 0.1, step.mean, step.std)

    assert torch.autograd.gradcheck(log_prob, v)
    assert take(name, (v, x), 0.6, 0.5).output.requires_grad


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", NAMES)
def test_half_precision_is_computed_in_float32(name: str, dtype: torch.dtype) -> None:
    v, x = (tensor.to(dtype) for tensor in at(0.6))
    step, full = (take(name, inputs, torch.tensor(0.6), 0.5) for inputs in ((v, x), (v.float(), x.float())))
    for field in fields(Transition):
        assert torch.equal(getattr(step, field.name), getattr(full, field.name))
        assert getattr(step, field.name).dtype == torch.float32


@pytest.mark.parametrize("name", NAMES)
def test_a_negative_noise_level_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"noise_level is -0\.1"):
        take(name, at(0.6), 0.6, 0.5, -0.1)


@pytest.mark.parametrize("name", NAMES)
def test_a_sampler_is_described(name: str) -> None:
    assert (SAMPLERS.get(name).__doc__ or "").partition("\n")[0].endswith(".")


# Each sampler


def test_steps_of_literals() -> None:
    # x0 = 2 and x1 = -1 at sigma .6: x = .8 - .6, v = -3; to sigma .5.
    inputs = torch.full((1, 1), -3.0), torch.full((1, 1), 0.2)

    # k^2 = .49 * .6 / .4 = .735, so c = .5 - .735 * .1 / 1.2 = .43875 and std = sqrt(.0735).
    step = take("flow-sde", inputs, 0.6, 0.5, 0.7)
    torch.testing.assert_close(step.mean, torch.tensor([[1.0 - 0.43875]]))
    torch.testing.assert_close(step.std, torch.tensor(math.sqrt(0.0735)))

    # c = .5 - .09 * .1 / 1.2 = .4925 and std = sqrt(.009).
    step = take("dance-sde", inputs, 0.6, 0.5, 0.3)
    torch.testing.assert_close(step.mean, torch.tensor([[1.0 - 0.4925]]))
    torch.testing.assert_close(step.std, torch.tensor(math.sqrt(0.009)))

    # A third of a right angle: c = .5 cos 30, std = .5 sin 30.
    step = take("cps", inputs, 0.6, 0.5, 1 / 3)
    torch.testing.assert_close(step.mean, torch.tensor([[1.0 - 0.5 * math.sqrt(0.75)]]))
    torch.testing.assert_close(step.std, torch.tensor(0.25))


@pytest.mark.parametrize("levels", LEVELS)
def test_flow_sde_is_the_published_step(levels: tuple[float, float]) -> None:
    (sigma, following), (v, x) = levels, at(levels[0])
    # The released code puts the second noise level, here the next one, for sigma = 1.
    k = NOISE * math.sqrt(sigma / (1 - (following if sigma == 1 else sigma)))
    d = sigma - following
    step = take("flow-sde", (v, x), sigma, following)
    mean = x * (1 - k**2 * d / (2 * sigma)) - v * (1 + k**2 * (1 - sigma) / (2 * sigma)) * d
    torch.testing.assert_close(step.mean, mean, rtol=1e-12, atol=1e-12)
    assert float(step.std) == pytest.approx(k * math.sqrt(d), rel=1e-12)


@pytest.mark.parametrize("levels", LEVELS)
def test_dance_sde_is_the_published_step(levels: tuple[float, float]) -> None:
    (sigma, following), (v, x) = levels, at(levels[0])
    d, x0 = sigma - following, x - sigma * v
    step = take("dance-sde", (v, x), sigma, following, 0.3)
    mean = x - (v + 0.5 * 0.09 * (x - (1 - sigma) * x0) / sigma**2) * d
    torch.testing.assert_close(step.mean, mean, rtol=1e-12, atol=1e-12)
    assert float(step.std) == pytest.approx(0.3 * math.sqrt(d), rel=1e-12)


@pytest.mark.parametrize("levels", LEVELS)
@pytest.mark.parametrize("noise", [0.0, 0.3, 0.7, 1.0])
def test_cps_keeps_the_noise_level(levels: tuple[float, float], noise: float) -> None:
    step = take("cps", at(levels[0]), *levels, noise)
    coefficient = noise_coefficient(step, levels[1])
    assert coefficient**2 + float(step.std) ** 2 == pytest.approx(levels[1] ** 2, abs=1e-12)
    assert float(step.std) == pytest.approx(levels[1] * math.sin(noise * math.pi / 2), abs=1e-12)


def test_flow_sde_leaves_more_noise_than_the_next_level() -> None:
    step = take("flow-sde", at(0.6), 0.6, 0.5)
    assert math.hypot(noise_coefficient(step, 0.5), float(step.std)) == pytest.approx(0.516, abs=5e-4)


def test_cps_ends_without_noise_at_the_clean_latent() -> None:
    v, x = (tensor.float() for tensor in at(0.2))
    step = take("cps", (v, x), 0.2, 0.0)
    assert step.std == 0
    assert torch.equal(step.mean, step.x0)
    assert torch.equal(gaussian.log_prob(x, step.mean, step.std), torch.zeros(3))


@pytest.mark.parametrize(("name", "noise"), [("flow-sde", 0.2 / 0.8**0.5), ("dance-sde", 0.2**0.5)])
def test_the_sdes_end_with_noise_in_the_latent(name: str, noise: float) -> None:
    assert float(take(name, at(0.2), 0.2, 0.0).std) == pytest.approx(NOISE * noise)


@pytest.mark.parametrize("second", [None, 0.0])
def test_flow_sde_of_a_single_step_is_finite(second: float | None) -> None:
    step = take("flow-sde", at(1.0), 1.0, 0.0, second=second)
    assert float(step.std) == pytest.approx(NOISE)
    assert noise_coefficient(step, 0.0) == pytest.approx(-(NOISE**2) / 2)


def test_flow_sde_uses_the_second_level_at_one_only_and_up_to_rounding() -> None:
    inputs = at(1.0)
    step = take("flow-sde", inputs, 1.0, 0.9, second=0.96)
    assert float(step.std) == pytest.approx(NOISE * math.sqrt(1 / 0.04 * 0.1))
    for rounded in (1 - 6e-8, 1 + 1.2e-7):
        near = take("flow-sde", inputs, rounded, 0.9, second=0.96)
        torch.testing.assert_close(near.mean, step.mean, rtol=1e-5, atol=1e-5)
    below = take("flow-sde", inputs, 0.98, 0.9, second=0.96)
    assert float(below.std) == pytest.approx(NOISE * math.sqrt(0.98 / 0.02 * 0.08))
    with pytest.raises(ValueError, match="second noise level"):
        take("flow-sde", inputs, 1.0, 0.5, second=1.0)


def test_dance_sde_with_more_noise_than_there_is_stays_finite() -> None:
    step = take("dance-sde", at(0.6), 0.6, 0.0, 10.0)
    assert step.mean.isfinite().all()
    assert noise_coefficient(step, 0.0) == pytest.approx(-50)
    assert float(step.std) == pytest.approx(10 * math.sqrt(0.6))


def test_a_noise_level_in_half_precision_or_float64_does_not_change_the_result() -> None:
    v, x = (tensor.float() for tensor in at(0.5))
    expected = take("flow-sde", (v, x), 0.5, 0.25)
    for dtype in (torch.bfloat16, torch.float64):
        step = take("flow-sde", (v, x), torch.tensor(0.5, dtype=dtype), torch.tensor(0.25, dtype=dtype))
        assert torch.equal(step.mean, expected.mean)
        assert step.mean.dtype == step.std.dtype == torch.float32


# Selection


MINE = """
import torch
from stepcredit.policy.samplers import register_sampler


@register_sampler("constant-noise")
def constant_noise(step, noise_level):
    return step.mix(step.sigma_next, torch.full_like(step.sigma_next, noise_level))


def no_transition(step, noise_level):
    return step.sample
"""


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(SAMPLERS, "_parts", dict(SAMPLERS._parts))
    (tmp_path / "mine.py").write_text(MINE)
    return str(tmp_path / "mine.py")


def test_a_sampler_of_a_plugin(mine: str) -> None:
    sampler = build_sampler(SampleSection(sampler="constant-noise"), [mine])
    assert sampler(flow_step(*at(0.6), 0.6, 0.5), 0.3).std == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("name", "noise", "words"),
    [
        ("flow-sd", 0.7, "'flow-sd' .*'flow-sde'"),
        ("cps", 1.5, r"sample\.sampler=cps: noise_level is 1\.5, .*\[0, 1\]"),
        ("{mine}:no_transition", 0.7, "returned a Tensor, expected a Transition"),
    ],
)
def test_a_sampler_that_cannot_be_used(mine: str, name: str, noise: float, words: str) -> None:
    with pytest.raises(InputError, match=words):
        build_sampler(SampleSection(sampler=name.format(mine=mine), noise_level=noise))
