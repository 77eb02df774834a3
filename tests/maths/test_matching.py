"""The matching losses against numbers worked out by hand."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from stepcredit.maths.matching import (
    advantage_regression,
    advantage_weighted,
    elbo_gradient,
    negative_aware,
    proximal_elbo_gradient,
    reward_adaptive,
    reward_velocity,
    velocity_error,
)

CLEAN = torch.tensor([[0.0, 1.0], [2.0, -1.0]])
OLD = torch.tensor([[0.5, 0.0], [1.0, 1.0]])


def gradient(advantage: Tensor, prediction: Tensor = OLD, beta: float = 1.0) -> Tensor:
    prediction = prediction.clone().requires_grad_()
    negative_aware(prediction, OLD, CLEAN, advantage, beta, 5.0).sum().backward()
    assert prediction.grad is not None
    return prediction.grad


def test_a_literal() -> None:
    """r = .75, p+ = 1.5, p- = .5: 10 (.75 2.25 / 1.5 + .25 .25 / .5)."""
    one = torch.ones(1, 1)
    found = negative_aware(2 * one, one, 0 * one, torch.tensor([2.5]), beta=0.5, max_advantage=5.0)
    assert found.tolist() == [12.5]


@pytest.mark.parametrize("beta", [1.0, 0.3])
def test_at_the_old_prediction_the_gradient_is_the_advantage_times_the_residual(beta: float) -> None:
    advantage = torch.tensor([1.5, -2.0])
    residual = OLD - CLEAN
    expected = 2 * advantage[:, None] * residual / (residual.abs().mean(1, keepdim=True) * 2)
    torch.testing.assert_close(gradient(advantage, beta=beta), expected)


def test_advantage_0_has_no_gradient_at_the_old_prediction_and_pulls_back_to_it() -> None:
    none = torch.zeros(2)
    assert torch.equal(gradient(none), torch.zeros(2, 2))
    step = OLD - 0.01 * gradient(none, OLD + 0.2)
    assert ((OLD + 0.2 - OLD) * gradient(none, OLD + 0.2)).sum() > 0
    assert step.isfinite().all()


def test_advantages_are_cut() -> None:
    assert torch.equal(gradient(torch.tensor([7.0, -9.0])), gradient(torch.tensor([5.0, -5.0])))


def test_a_perfect_prediction_stays_finite() -> None:
    prediction = CLEAN.clone().requires_grad_()
    loss = negative_aware(prediction, CLEAN, CLEAN, torch.ones(2), 1.0, 5.0)
    loss.sum().backward()
    assert loss.tolist() == [0.0, 0.0] and prediction.grad is not None and prediction.grad.isfinite().all()


def test_half_precision_is_computed_in_float32() -> None:
    found = negative_aware(OLD.half(), OLD.half(), CLEAN.half(), torch.ones(2).half(), 1.0, 5.0)
    assert found.dtype == torch.float32


SIGMA = torch.tensor([0.5, 2.0])
ADVANTAGE = torch.tensor([1.5, -0.7])


def error(prediction: Tensor) -> Tensor:
    return velocity_error(prediction, CLEAN, SIGMA)


LOSSES: dict[str, Callable[[Tensor], Tensor]] = {
    "nft": lambda p: negative_aware(p, OLD, CLEAN, ADVANTAGE, 1.0, 5.0),
    "awm": lambda p: advantage_weighted(error(p), error(OLD), ADVANTAGE),
    "awm-clipped": lambda p: advantage_weighted(error(p), error(OLD), ADVANTAGE, 0.1),
    "epg": lambda p: elbo_gradient(error(p), error(OLD), ADVANTAGE),
    "pepg": lambda p: proximal_elbo_gradient(error(p), error(OLD), ADVANTAGE),
    "par": lambda p: advantage_regression(error(p), error(OLD), ADVANTAGE),
    "ram": lambda p: reward_adaptive(p, OLD, OLD, CLEAN, ADVANTAGE, 0.3, SIGMA),
    "rvm": lambda p: reward_velocity(p, OLD, CLEAN, ADVANTAGE, 0.1, SIGMA),
}


def rows_gradient(name: str, prediction: Tensor) -> Tensor:
    prediction = prediction.clone().requires_grad_()
    LOSSES[name](prediction).sum().backward()
    assert prediction.grad is not None
    return prediction.grad


@pytest.mark.parametrize("name", LOSSES)
def test_the_first_gradient_of_every_loss_has_one_direction(name: str) -> None:
    direction = ADVANTAGE[:, None] * (OLD - CLEAN)
    cosines = torch.cosine_similarity(rows_gradient(name, OLD), direction)
    torch.testing.assert_close(cosines, torch.ones(2), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["awm", "awm-clipped", "epg", "pepg", "par"])
def test_losses_of_the_error_have_one_first_gradient(name: str) -> None:
    """A times the gradient of E."""
    expected = ADVANTAGE[:, None] * 2 * (OLD - CLEAN) / (2 * SIGMA[:, None] ** 2)
    torch.testing.assert_close(rows_gradient(name, OLD), expected)


def test_the_error_is_that_of_the_velocity_of_a_flow() -> None:
    """x = (1 - s) x0 + s eps and p = x - s v: |v - (eps - x0)|^2."""
    noise, velocity = torch.randn(2, 2), torch.randn(2, 2)
    level = torch.tensor([0.3, 0.9])[:, None]
    latents = (1 - level) * CLEAN + level * noise
    expected = (velocity - (noise - CLEAN)).square().mean(1)
    torch.testing.assert_close(velocity_error(latents - level * velocity, CLEAN, level.flatten()), expected)


def test_a_literal_of_each_loss() -> None:
    """E = 2, E_old = 1, A = 1.5: d = -1."""
    found, before, advantage = torch.tensor([2.0]), torch.tensor([1.0]), torch.tensor([1.5])
    ratio = torch.tensor(-1.0).exp().item()
    assert advantage_weighted(found, before, advantage).item() == pytest.approx(-1.5 * ratio)
    assert advantage_weighted(found, before, advantage, 0.2).item() == pytest.approx(-1.5 * ratio)
    assert advantage_weighted(found, before, -advantage, 0.2).item() == pytest.approx(1.5 * 0.8)
    assert elbo_gradient(found, before, advantage).item() == pytest.approx(ratio * 1.5 * 2)
    assert proximal_elbo_gradient(found, before, advantage).item() == pytest.approx(ratio * 2.5 * 2)
    assert advantage_regression(found, before, advantage).item() == pytest.approx(0.5 * ratio * 2.5**2)


def test_the_clipped_loss_stops_where_the_ratio_leaves_the_range() -> None:
    nearer = OLD + 0.5 * (CLEAN - OLD)
    gradients = rows_gradient("awm-clipped", nearer)
    assert torch.equal(gradients[0], torch.zeros(2))  # rewarded, and already far nearer
    assert gradients[1].abs().sum() > 0  # punished, and nearer: to be undone


def test_pepg_and_par_have_the_same_gradient_and_stop_at_the_advantage() -> None:
    prediction = OLD + 0.1
    torch.testing.assert_close(rows_gradient("pepg", prediction), rows_gradient("par", prediction))
    errors = torch.tensor([1.0, 1.0]).requires_grad_()
    proximal_elbo_gradient(errors, torch.tensor([1.4, 0.7]), torch.tensor([0.4, -0.3])).sum().backward()
    assert errors.grad is not None
    torch.testing.assert_close(errors.grad, torch.zeros(2), rtol=0, atol=1e-6)


def test_the_optimum_of_ram_is_a_step_from_the_anchor() -> None:
    anchor = OLD + 1
    optimum = anchor + 0.3 * ADVANTAGE[:, None] * (CLEAN - OLD)
    found = reward_adaptive(optimum, OLD, anchor, CLEAN, ADVANTAGE, 0.3, SIGMA)
    assert found.tolist() == pytest.approx([0, 0], abs=1e-12)


def test_the_optimum_of_rvm_is_between_the_image_and_the_anchor() -> None:
    anchor, beta = OLD + 1, 2.0
    advantage = torch.tensor([1.5, -0.7])
    optimum = (advantage[:, None] * CLEAN + beta * anchor) / (advantage[:, None] + beta)
    optimum.requires_grad_()
    reward_velocity(optimum, anchor, CLEAN, advantage, beta, SIGMA).sum().backward()
    assert optimum.grad is not None
    torch.testing.assert_close(optimum.grad, torch.zeros(2, 2), rtol=0, atol=1e-6)
