"""Bradley-Terry preferences on small literals."""

from __future__ import annotations

import math

import pytest
import torch

from stepcredit.maths.preference import agreement, negative_log_likelihood, probability


def test_probability_is_the_logistic_of_the_difference() -> None:
    left, right = torch.tensor([0.0, 1.0, 0.2]), torch.tensor([0.0, 0.0, 0.3])
    expected = torch.tensor([0.5, 1 / (1 + math.exp(-2)), 1 / (1 + math.exp(0.2))])
    torch.testing.assert_close(probability(left, right, 0.5), expected)


def test_both_sides_share_the_probability_and_a_constant_changes_nothing() -> None:
    left, right = torch.randn(2, 50, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(probability(left, right, 0.3) + probability(right, left, 0.3), torch.ones(50))
    torch.testing.assert_close(probability(left + 2, right + 2, 0.3), probability(left, right, 0.3), atol=1e-5, rtol=0)


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan])
def test_a_temperature_is_positive(temperature: float) -> None:
    with pytest.raises(ValueError, match="expected a number above 0"):
        probability(torch.zeros(1), torch.zeros(1), temperature)


def test_the_loss_is_minus_the_mean_log_probability_of_what_was_preferred() -> None:
    left, right, preferred = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 3.0]), torch.tensor([True, True])
    expected = -torch.where(preferred, probability(left, right), probability(right, left)).log().mean()
    torch.testing.assert_close(negative_log_likelihood(left, right, preferred), expected)
    torch.testing.assert_close(negative_log_likelihood(right, left, ~preferred), expected)
    assert negative_log_likelihood(left, left, preferred).item() == pytest.approx(math.log(2))


def test_the_loss_of_a_sure_mistake_is_finite() -> None:
    loss = negative_log_likelihood(torch.tensor([1e4]), torch.tensor([0.0]), torch.tensor([False]))
    assert loss.item() == pytest.approx(1e4)


def test_agreement_counts_equal_scores_half() -> None:
    left, right = torch.tensor([2.0, 0.0, 1.0, 1.0]), torch.tensor([1.0, 1.0, 1.0, 0.0])
    assert agreement(left, right, torch.tensor([True, False, True, False])) == (1 + 1 + 0.5 + 0) / 4


def test_shapes_must_agree() -> None:
    two, three = torch.zeros(2), torch.zeros(3)
    with pytest.raises(ValueError, match="right has shape"):
        probability(two, three)
    with pytest.raises(ValueError, match="left_preferred has shape"):
        negative_log_likelihood(two, two, three > 0)
    with pytest.raises(ValueError, match="left_preferred has shape"):
        agreement(two, two, three > 0)
