"""Sample sizes match the exact noncentral t within one pair, and `detectable_difference` is the inverse."""

from __future__ import annotations

import math

import pytest
import torch

from stepcredit.stats.power import detectable_difference, pairs_needed


@pytest.mark.parametrize(("effect", "exact"), [(0.2, 199), (0.3, 90), (0.5, 34), (0.8, 15), (1.0, 10), (1.5, 6)])
def test_published_numbers_of_pairs(effect: float, exact: int) -> None:
    """Two-sided 5%, power 0.8: the exact numbers of the paired t-test."""
    assert abs(pairs_needed(1.0, effect) - exact) <= 1
    assert pairs_needed(3.0, 3.0 * effect) == pairs_needed(1.0, -effect)


def test_simulated_power() -> None:
    """20,000 experiments with the number of pairs that `pairs_needed` gives."""
    pairs = pairs_needed(2.0, 1.5)
    draws = torch.randn(20_000, pairs, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2 + 1.5
    t = draws.mean(1) / (draws.std(1) / math.sqrt(pairs))
    critical = 2.1314  # of t with 15 degrees of freedom, two-sided 5%
    assert pairs == 16
    assert float((t.abs() > critical).double().mean()) == pytest.approx(0.8, abs=0.03)


def test_detectable_is_the_inverse() -> None:
    for pairs in (3, 5, 20):
        difference = detectable_difference(0.7, pairs)
        assert pairs_needed(0.7, difference * 1.0001) == pairs
        assert pairs_needed(0.7, difference * 0.9999) == pairs + 1
    assert detectable_difference(0.0, 5) == 0.0 and detectable_difference(1.0, 1) == math.inf


def test_more_power_and_more_certainty_need_more_pairs() -> None:
    plain = pairs_needed(1.0, 0.5)
    assert pairs_needed(1.0, 0.5, power=0.95) > plain < pairs_needed(1.0, 0.5, level=0.99)
    assert pairs_needed(0.0, 0.5) == 2


@pytest.mark.parametrize("given", [{"difference": 0.0}, {"spread": -1.0}, {"power": 1.0}, {"level": 0.0}])
def test_bad_input_is_refused(given: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="expected"):
        pairs_needed(**{"spread": 1.0, "difference": 1.0, **given})
