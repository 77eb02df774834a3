import math

import pytest
import torch

from stepcredit.maths import Schedule, Transition, ddim, schedules
from stepcredit.maths.flow import flow_step
from stepcredit.policy.samplers import SAMPLERS

ALL = torch.ones(4, dtype=torch.bool)
ALPHA, ALPHA_PREV = 0.36, 0.64


SIGMAS = torch.tensor([1.0, 0.9, 0.7, 0.4, 0.0])


def schedule(stds=(0.5, 0.25, 0.1, 0.0), output_scales=(0.5, 0.5, 0.4, 0.3), step_sizes=(0.1, 0.2, 0.3, 0.4)):
    return Schedule(*map(torch.tensor, (stds, output_scales, step_sizes)), 1 - SIGMAS, SIGMAS)


def at(step) -> tuple[torch.Tensor, Schedule]:
    """(d mean / d output by autograd at a random place, the schedule of the one step)."""
    x, output = torch.randn(2, 1, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    output.requires_grad_()
    gradient = torch.autograd.grad(step(output, x).mean.sum(), output)[0].squeeze()
    one = torch.ones(1, 1, dtype=torch.float64)
    unit = step(one, 0 * one)
    return gradient, schedules.of_units([unit], [0.5], SIGMAS[:2], SIGMAS[:2])


# The schedule


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("kind", ["epsilon", "sample", "v_prediction"])
def test_the_output_scale_of_ddim(kind, eta):
    gradient, found = at(lambda output, x: ddim.transition(output, x, ALPHA, ALPHA_PREV, eta, kind))
    std = eta * math.sqrt((1 - ALPHA_PREV) / (1 - ALPHA) * (1 - ALPHA / ALPHA_PREV))
    r = math.sqrt(1 - ALPHA_PREV - std**2)
    expected = {
        "epsilon": r - math.sqrt(ALPHA_PREV * (1 - ALPHA) / ALPHA),
        "sample": math.sqrt(ALPHA_PREV) - r * math.sqrt(ALPHA / (1 - ALPHA)),
        "v_prediction": r * math.sqrt(ALPHA) - math.sqrt(ALPHA_PREV * (1 - ALPHA)),
    }[kind]
    assert float(gradient) == pytest.approx(expected, rel=1e-12)
    assert found.output_scales.tolist() == pytest.approx([abs(expected)])
    assert found.stds.tolist() == pytest.approx([std])
    assert found.step_sizes.tolist() == [0.5]


@pytest.mark.parametrize("levels", [(1.0, 0.9), (0.6, 0.5), (0.2, 0.0)])
@pytest.mark.parametrize("sampler", ["flow-sde", "dance-sde", "cps-gaussian", "euler"])
def test_the_output_scale_of_flow_steps(sampler, levels):
    def transition(output, x):
        step = flow_step(output, x, *levels)
        return step.euler() if sampler == "euler" else SAMPLERS.get(sampler)(step, 0.7)

    gradient, found = at(transition)
    s, following = levels
    std = float(found.stds)
    c = math.sqrt(following**2 - std**2) if sampler == "cps-gaussian" else following - std**2 / (2 * s)
    assert float(gradient) == pytest.approx(c * (1 - s) - s * (1 - following), rel=1e-6)
    assert found.output_scales.tolist() == pytest.approx([abs(float(gradient))])
    assert found.native_scales.tolist() == pytest.approx([abs(float(gradient)) / std if std else 0])


def test_the_native_scale_of_the_published_flow_step():
    """PCPO's w(t) = sqrt(d) / k (1 + (1 - t) k^2 / (2 t)), k = a sqrt(t / (1 - t))."""
    _, found = at(lambda output, x: SAMPLERS.get("flow-sde")(flow_step(output, x, 0.6, 0.5), 0.7))
    k = 0.7 * math.sqrt(0.6 / 0.4)
    assert found.native_scales.tolist() == pytest.approx([math.sqrt(0.1) / k * (1 + 0.4 * k**2 / 1.2)])


def test_native_scales_of_literals():
    assert schedule().native_scales.tolist() == pytest.approx([1.0, 2.0, 4.0, 0.0])
    assert schedule(stds=[0.0] * 4).native_scales.tolist() == [0.0] * 4


def test_steps_are_gathered_in_float32_on_the_cpu():
    units = [Transition(torch.full((1, 1), mean), torch.tensor(0.5), *[torch.ones(1, 1)] * 2) for mean in (-2.0, 3.0)]
    found = schedules.of_units(units, [0.25, 0.75], SIGMAS[2:].double(), SIGMAS[:3].double())
    assert found.output_scales.tolist() == [2.0, 3.0]
    assert found.stds.tolist() == [0.5, 0.5]
    assert {value.dtype for value in vars(found).values() if value is not None} == {torch.float32}
    assert torch.equal(found.alphas, SIGMAS[2:]) and torch.equal(found.sigmas, SIGMAS[:3])


# The forward process


def test_noised_latents_of_literals():
    x0, noise = torch.tensor([[2.0, 4.0], [6.0, 8.0]]), torch.tensor([[1.0, -1.0], [1.0, -1.0]])
    torch.testing.assert_close(schedules.noised(x0, noise, 0.5, 2.0), torch.tensor([[3.0, 0.0], [5.0, 2.0]]))
    rows = schedules.noised(x0, noise, torch.tensor([1.0, 0.5]), torch.tensor([0.0, 2.0]))
    torch.testing.assert_close(rows, torch.tensor([[2.0, 4.0], [5.0, 2.0]]))
    assert schedules.noised(x0.half(), noise.half(), 1.0, 0.0).dtype == torch.float32


def test_the_model_output_takes_noised_latents_back_to_the_clean_ones():
    x0, noise = torch.randn(2, 3, 2, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    diffused = schedules.noised(x0, noise, math.sqrt(ALPHA), math.sqrt(1 - ALPHA))
    torch.testing.assert_close(ddim.transition(noise, diffused, ALPHA, ALPHA_PREV, 0.0).x0, x0)
    mixed = schedules.noised(x0, noise, 0.4, 0.6)
    torch.testing.assert_close(flow_step(noise - x0, mixed, 0.6, 0.5).x0, x0)


# Scaling to mean 1


def test_weights_are_scaled_over_the_trained_steps():
    trainable = torch.tensor([True, True, False, True])
    found = schedules.mean_one(torch.tensor([1.0, 2.0, 50.0, 3.0]), trainable)
    torch.testing.assert_close(found, torch.tensor([0.5, 1.0, 0.0, 1.5]))
    rows = schedules.mean_one(torch.tensor([[1.0, 2.0, math.inf, 3.0], [4.0, 4.0, 0.0, 4.0]]), trainable)
    torch.testing.assert_close(rows, torch.tensor([[0.5, 1.0, 0.0, 1.5], [1.0, 1.0, 0.0, 1.0]]))


def test_weights_that_are_all_zero_become_equal():
    weights, trainable = torch.tensor([[0.0, 0.0, 7.0], [0.0, 2.0, 7.0]]), torch.tensor([True, True, False])
    assert schedules.mean_one(weights, trainable).tolist() == [[1, 1, 0], [0, 2, 0]]
    assert schedules.weightless_rows(weights, trainable).tolist() == [True, False]
    assert schedules.mean_one(weights, ~ALL[:3]).tolist() == [[0, 0, 0]] * 2


def test_one_step_has_factor_one():
    assert schedules.mean_one(torch.tensor([0.2]), ALL[:1]).tolist() == [1.0]


# Weights


def test_discount_of_literals():
    torch.testing.assert_close(schedules.discount_weights(3, 0.5), torch.tensor([1.0, 0.5, 0.25]))
    assert schedules.discount_weights(4, 1.0).tolist() == [1.0] * 4


def test_inverse_scale_makes_every_noisy_step_move_the_policy_alike():
    weights = schedules.inverse_scale_weights(schedule())
    torch.testing.assert_close(weights, torch.tensor([1.0, 0.5, 0.25, 0.0]))
    torch.testing.assert_close(weights[:3] * schedule().native_scales[:3], torch.ones(3))


@pytest.mark.parametrize("scale", [0.0, math.inf])
def test_a_step_without_a_usable_scale_has_no_weight(scale):
    degenerate = schedule(output_scales=[scale, 0.5, 0.4, 0.3])
    assert schedules.inverse_scale_weights(degenerate)[0] == 0
    assert schedules.step_size_weights(degenerate)[0] == 0


def test_step_size_makes_every_step_move_the_policy_by_its_length():
    moved = schedules.step_size_weights(schedule()) * schedule().native_scales
    torch.testing.assert_close(moved, torch.tensor([0.1, 0.2, 0.3, 0.0]))


def test_step_size_of_even_steps_is_inverse_scale():
    even = schedule(step_sizes=[0.25] * 4)
    by_length, by_scale = schedules.step_size_weights(even), schedules.inverse_scale_weights(even)
    torch.testing.assert_close(schedules.mean_one(by_length, ALL), schedules.mean_one(by_scale, ALL))


def test_relative_changes_of_literals():
    # |x| sums 4, 2, 3; changes 2 + 0, 3 + 2.
    latents = torch.tensor([[[3.0, -1.0], [1.0, -1.0], [-2.0, 1.0]]])
    torch.testing.assert_close(schedules.relative_changes(latents), torch.tensor([[0.5, 2.5]]))
    torch.testing.assert_close(schedules.relative_changes(-7 * latents), torch.tensor([[0.5, 2.5]]))


def test_relative_changes_are_finite_in_half_precision_and_at_zero():
    latents = torch.randn(2, 4, 3, 300, 300, generator=torch.Generator().manual_seed(0)).half()
    latents[1, 1] = 0
    found = schedules.relative_changes(latents)
    assert found.dtype == torch.float32 and found.isfinite().all()
    assert found[1, 1] == 0 and found[1, 0] == 1
    torch.testing.assert_close(found, schedules.relative_changes(latents.float()))


def test_the_last_trained_steps_are_dropped():
    trainable = torch.tensor([True, True, False, True, False])
    assert schedules.kept_steps(trainable, 0).tolist() == [1, 1, 0, 1, 0]
    assert schedules.kept_steps(trainable, 1).tolist() == [1, 1, 0, 0, 0]
    assert schedules.kept_steps(trainable, 2).tolist() == [1, 0, 0, 0, 0]


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match=r"trainable has shape \(4,\), expected \(3,\)"):
        schedules.mean_one(torch.ones(2, 3), ALL)
    for gamma in (0, -1, 1.5, math.nan):
        with pytest.raises(ValueError, match="gamma is"):
            schedules.discount_weights(3, gamma)
    with pytest.raises(ValueError, match="steps is 0"):
        schedules.discount_weights(0, 0.9)
    for dropped in (-1, 4, 9):
        with pytest.raises(ValueError, match="give 0 to 3"):
            schedules.kept_steps(ALL, dropped)
    with pytest.raises(ValueError, match=r"noise has shape \(4,\), expected \(2, 3\)"):
        schedules.noised(torch.ones(2, 3), torch.ones(4), 1.0, 0.0)
    with pytest.raises(ValueError, match=r"alpha has shape \(3,\), expected \(2,\)"):
        schedules.noised(torch.ones(2, 3), torch.ones(2, 3), torch.ones(3), 0.0)
    with pytest.raises(ValueError, match="at least two latents"):
        schedules.relative_changes(torch.ones(2, 1, 4))
    with pytest.raises(ValueError, match="latents has shape"):
        schedules.relative_changes(torch.ones(2, 4))
