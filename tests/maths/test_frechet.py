"""The Fréchet distance of two sets of points."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from stepcredit.maths.frechet import frechet_distance


def moments(mean: list[float], covariance: list[list[float]]) -> Tensor:
    """Points with exactly this mean and covariance."""
    points = torch.randn(50, len(mean), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    centered = points - points.mean(0)
    whitened = centered @ torch.linalg.inv(torch.linalg.cholesky(torch.cov(centered.T).reshape(len(mean), -1))).T
    return whitened @ torch.linalg.cholesky(torch.tensor(covariance, dtype=torch.float64)).T + torch.tensor(mean)


def test_equal_sets_have_distance_zero() -> None:
    points = torch.randn(30, 5, generator=torch.Generator().manual_seed(0))
    assert frechet_distance(points, points.flip(0)) == pytest.approx(0, abs=1e-6)


def test_a_shift_counts_squared() -> None:
    points = torch.randn(30, 3, generator=torch.Generator().manual_seed(0))
    assert frechet_distance(points + torch.tensor([1.0, 2.0, 0.0]), points) == pytest.approx(5, rel=1e-5)


def test_one_feature() -> None:
    """(m - m_r)^2 + (s - s_r)^2."""
    assert frechet_distance(moments([1.0], [[4.0]]), moments([0.0], [[9.0]])) == pytest.approx(1 + 1, rel=1e-6)


def test_covariances_that_do_not_commute() -> None:
    first, second = [[2.0, 1.0], [1.0, 2.0]], [[1.0, 0.0], [0.0, 4.0]]
    product = torch.tensor(first) @ torch.tensor(second)
    roots = math.sqrt(float(product.trace()) + 2 * math.sqrt(float(torch.linalg.det(product))))  # of a 2 x 2 matrix
    expected = 4.0 + 5.0 - 2 * roots
    assert frechet_distance(moments([0.0, 0.0], first), moments([0.0, 0.0], second)) == pytest.approx(
        expected, rel=1e-6
    )


def test_it_is_symmetric_and_does_not_depend_on_the_order() -> None:
    generator = torch.Generator().manual_seed(1)
    left, right = torch.randn(40, 4, generator=generator), 2 * torch.randn(60, 4, generator=generator) + 1
    assert frechet_distance(left, right) == pytest.approx(frechet_distance(right, left.flip(0)), rel=1e-6)


def test_constant_features_are_no_error() -> None:
    assert frechet_distance(torch.ones(5, 2), torch.zeros(5, 2)) == pytest.approx(2)


@pytest.mark.parametrize(
    ("points", "reference"),
    [(torch.zeros(1, 2), torch.zeros(5, 2)), (torch.zeros(5, 2), torch.zeros(5, 3)), (torch.zeros(5), torch.zeros(5))],
)
def test_bad_shapes(points: Tensor, reference: Tensor) -> None:
    with pytest.raises(ValueError, match="points have"):
        frechet_distance(points, reference)
