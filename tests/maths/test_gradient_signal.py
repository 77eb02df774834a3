"""What gradients of independent images have in common, and the step factors that come of it."""

import math

import pytest
import torch

from stepcredit.maths.gradient_signal import agreement, reliability_factors


def test_agreement_by_hand() -> None:
    # <a,b> = 1, <a,c> = 3, <b,c> = 0; squares 5, 1, 10.
    a, b, c = torch.tensor([2.0, 1.0]), torch.tensor([0.0, 1.0]), torch.tensor([3.0, -1.0])
    signal, power = agreement([a, b, c])
    assert float(signal) == pytest.approx((1 + 5 - 1) / 3) and float(power) == pytest.approx(16 / 3)


def test_equal_estimates_are_all_signal_and_opposite_ones_less_than_none() -> None:
    a = torch.tensor([3.0, 4.0])
    assert [float(value) for value in agreement([a, a])] == [25.0, 25.0]
    assert [float(value) for value in agreement([a, -a])] == [-25.0, 25.0]


def test_signal_is_that_of_the_expected_gradient() -> None:
    generator = torch.Generator().manual_seed(0)
    expected = torch.randn(50, generator=generator, dtype=torch.float64)
    noise = torch.randn(2000, 4, 50, generator=generator, dtype=torch.float64) * 3
    found = torch.stack([torch.stack(agreement([*(expected + draw)])) for draw in noise]).mean(0)
    length = float(expected.square().sum())
    assert found.tolist() == pytest.approx([length, length + 9 * 50], rel=0.02)


@pytest.mark.parametrize(
    ("gradients", "line"),
    [
        ([torch.ones(2)], "has 1 entry, expected at least 2"),
        ([torch.ones(2), torch.ones(3)], "estimates of one gradient"),
    ],
)
def test_what_cannot_agree_is_refused(gradients: list[torch.Tensor], line: str) -> None:
    with pytest.raises(ValueError, match=line):
        agreement(gradients)


def test_factors_by_hand() -> None:
    # Shares of signal 1/4 and 0, of both together 1/8.
    signal, power = torch.tensor([1.0, 0.0]), torch.tensor([4.0, 4.0])
    assert reliability_factors(signal, power, 0.0).tolist() == pytest.approx([1 / 4, 0.0])
    expected = [math.sqrt((1 / 4 + 1 / 8) / 2 / 4), math.sqrt(1 / 8 / 2 / 4)]
    assert reliability_factors(signal, power, 1.0).tolist() == pytest.approx(expected)


def test_without_a_prior_a_step_is_matched_to_its_expected_gradient() -> None:
    signal, power = torch.tensor([4.0, 9.0]), torch.tensor([16.0, 10.0])
    torch.testing.assert_close(reliability_factors(signal, power, 0.0), signal.sqrt() / power)


@pytest.mark.parametrize("signal", [[0.0, 0.0], [-1.0, -2.0]])
def test_where_no_signal_is_seen_every_step_moves_the_weights_alike(signal: list[float]) -> None:
    power = torch.tensor([4.0, 1.0])
    torch.testing.assert_close(reliability_factors(torch.tensor(signal), power, 1.0), power.rsqrt())


def test_a_step_without_power_is_not_trained_and_units_do_not_matter() -> None:
    signal, power = torch.tensor([1.0, 0.0, 2.0]), torch.tensor([4.0, 0.0, 3.0])
    factors = reliability_factors(signal, power, 1.0)
    assert float(factors[1]) == 0 and bool((factors[[0, 2]] > 0).all())
    scaled = reliability_factors(signal * 100, power * 100, 1.0)
    torch.testing.assert_close(scaled / scaled.sum(), factors / factors.sum())
    assert torch.equal(reliability_factors(torch.zeros(3), torch.zeros(3), 1.0), torch.zeros(3))


def test_a_negative_prior_and_unequal_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="prior is -1"):
        reliability_factors(torch.ones(2), torch.ones(2), -1)
    with pytest.raises(ValueError, match="power"):
        reliability_factors(torch.ones(2), torch.ones(3), 1)
