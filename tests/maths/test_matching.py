"""The DiffusionNFT loss against numbers worked out by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from stepcredit.maths.matching import negative_aware

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
