import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stepcredit.stats.efficiency import first_reached, trailing_mean, value_at


def tensor(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


POSITIONS = tensor(10, 20, 40)


def test_trailing_mean():
    assert trailing_mean(tensor(1, 3, 5, 11), 2).tolist() == [1, 2, 4, 8]
    assert trailing_mean(tensor(1, 3, 5, 11), 9).tolist() == [1, 2, 3, 5]
    assert trailing_mean(tensor(1, 3, 5, 11), 1).tolist() == [1, 3, 5, 11]


def test_a_level_is_reached_on_the_line_between_two_points():
    assert first_reached(POSITIONS, tensor(0, 1, 3), 2) == 30
    assert first_reached(POSITIONS, tensor(0, 1, 3), 0.25) == 12.5


def test_a_level_is_reached_at_a_point_that_has_it():
    assert first_reached(POSITIONS, tensor(0, 1, 3), 1) == 20
    assert first_reached(POSITIONS, tensor(0, 1, 3), 3) == 40


def test_a_level_above_the_curve_is_never_reached():
    assert first_reached(POSITIONS, tensor(0, 1, 3), 3.001) is None


def test_a_curve_that_starts_above_reaches_the_level_at_its_first_position():
    assert first_reached(POSITIONS, tensor(5, 1, 3), 2) == 10


def test_the_first_of_several_crossings_counts():
    assert first_reached(POSITIONS, tensor(0, 2, 0), 1) == 15


@given(st.lists(st.floats(-10, 10), min_size=1, max_size=6))
def test_every_curve_reaches_its_own_last_value(values):
    positions = torch.arange(1, len(values) + 1, dtype=torch.float64)
    reached = first_reached(positions, tensor(*values), values[-1])
    assert reached is not None and 1 <= reached <= len(values)


def test_value_between_points_and_beyond_the_ends():
    values = tensor(0, 1, 3)
    assert [value_at(POSITIONS, values, position) for position in (5, 10, 15, 20, 30, 40, 50)] == [
        0,
        0,
        0.5,
        1,
        2,
        3,
        3,
    ]


@pytest.mark.parametrize("positions", [tensor(1, 1), tensor(2, 1), tensor(1), tensor()])
def test_positions_must_increase(positions):
    for call in (first_reached, value_at):
        with pytest.raises(ValueError, match="positions"):
            call(positions, torch.zeros(2 if len(positions) else 0, dtype=torch.float64), 1.0)


def test_an_empty_window_is_refused():
    with pytest.raises(ValueError, match="window is 0"):
        trailing_mean(tensor(1), 0)
