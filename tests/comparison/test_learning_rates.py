"""The choice of learning rates, and warnings about it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.comparison.test_protocol import protocol

from stepcredit.comparison.cells import Cell, tuning_cells
from stepcredit.comparison.learning_rates import RateChoice, choose_rates

JPEG = "jpeg_compressibility"


def choice(criterion: Callable[[Cell], float | None], skip_failed: bool = False) -> RateChoice:
    """The choice for arm uniform, whose grid is 0.005, 0.01, 0.02. A criterion of None is a failed run."""
    found = protocol()
    criteria = {cell: value for cell in tuning_cells(found) if (value := criterion(cell)) is not None}
    return choose_rates(found, criteria, skip_failed)[JPEG, "uniform"]


def test_the_best_mean_over_tuning_seeds_is_chosen() -> None:
    found = choice(lambda cell: {0.005: 3.0, 0.01: 5.0, 0.02: 4.0}[cell.rate] + (cell.rate == 0.02 and cell.seed == 1))
    assert (found.rate, found.remark) == (0.01, "")
    assert found.criteria == {0.005: {1: 3, 2: 3}, 0.01: {1: 5, 2: 5}, 0.02: {1: 5, 2: 4}}


@pytest.mark.parametrize(("sign", "edge", "rate"), [(1, "highest", 0.02), (-1, "lowest", 0.005)])
def test_a_rate_at_the_edge_of_the_grid_has_a_warning(sign: int, edge: str, rate: float) -> None:
    found = choice(lambda cell: sign * cell.rate)
    assert found.rate == rate
    assert edge in found.remark


def test_of_equal_rates_the_lowest_is_chosen() -> None:
    assert choice(lambda cell: 0.0).rate == 0.005


def test_each_arm_is_tuned_on_its_own_runs() -> None:
    assert choice(lambda cell: cell.rate if cell.arm == "linear" else -abs(cell.rate - 0.01)).rate == 0.01


def test_failed_runs_prevent_a_choice_unless_skipped() -> None:
    def broken(cell: Cell) -> float | None:
        return None if (cell.rate, cell.seed) == (0.02, 2) else cell.rate

    assert choice(broken).rate is None
    found = choice(broken, skip_failed=True)
    assert found.rate == 0.01
    assert found.remark.endswith("failed: 0.02")
    assert choice(lambda cell: None, skip_failed=True).rate is None
