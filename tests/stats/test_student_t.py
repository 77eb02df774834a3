"""Student's t: published quantiles, and what they promise."""

from __future__ import annotations

import math
from statistics import NormalDist

import pytest
import torch

from stepcredit.stats.student_t import probability_within, standard_errors

# Abramowitz and Stegun, table 26.10.
AT_95 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 7: 2.365, 8: 2.306, 9: 2.262, 30: 2.042, 120: 1.980}
AT_99 = {1: 63.657, 2: 9.925, 3: 5.841, 4: 4.604, 10: 3.169, 60: 2.660}


@pytest.mark.parametrize(("level", "published"), [(0.95, AT_95), (0.99, AT_99)])
def test_published_quantiles(level: float, published: dict[int, float]) -> None:
    found = {freedom: standard_errors(level, freedom) for freedom in published}
    assert found == pytest.approx(published, abs=5.1e-4)


@pytest.mark.parametrize("freedom", [1, 2, 3, 8, 31])
@pytest.mark.parametrize("level", [1e-6, 0.5, 0.95, 0.9999])
def test_the_quantile_is_the_inverse_of_the_probability(level: float, freedom: int) -> None:
    assert probability_within(standard_errors(level, freedom), freedom) == pytest.approx(level, rel=1e-9)


def test_the_smallest_cases_by_hand() -> None:
    assert probability_within(1, 1) == pytest.approx(0.5)  # Cauchy
    assert probability_within(1, 2) == pytest.approx(1 / math.sqrt(3))
    assert probability_within(0, 5) == 0


def test_many_values_are_as_good_as_normal() -> None:
    assert standard_errors(0.95, 5000) == pytest.approx(NormalDist().inv_cdf(0.975), abs=1e-3)


def test_t_intervals_of_five_values_cover_the_truth() -> None:
    values = torch.randn(20_000, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    errors = values.std(1) / math.sqrt(5)
    covered = values.mean(1).abs() <= standard_errors(0.95, 4) * errors
    assert float(covered.double().mean()) == pytest.approx(0.95, abs=0.006)


@pytest.mark.parametrize(("distance", "freedom"), [(-1, 3), (1, 0)])
def test_no_such_distance_or_freedom(distance: float, freedom: int) -> None:
    with pytest.raises(ValueError, match="expected at least 0, and at least 1"):
        probability_within(distance, freedom)


@pytest.mark.parametrize("level", [0, 1, 1.5])
def test_levels_are_probabilities(level: float) -> None:
    with pytest.raises(ValueError, match="expected a probability"):
        standard_errors(level, 3)
    with pytest.raises(ValueError, match="freedom 0"):
        standard_errors(0.9, 0)
