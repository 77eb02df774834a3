"""The choice of learning rates and clip ranges, and warnings about it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
from tests.comparison.test_protocol import protocol

from stepcredit.comparison.cells import Cell, tuning_cells
from stepcredit.comparison.settings import Setting
from stepcredit.comparison.tuning import Choice, choose_settings

JPEG, CLIP = "jpeg_compressibility", 0.03


def choice(
    criterion: Callable[[Cell], float | None], skip_failed: bool = False, clips: Sequence[float] = (CLIP,)
) -> Choice:
    """The choice for arm uniform, with rates 0.005, 0.01, 0.02. A criterion of None is a failed run."""
    found = protocol(clip_ranges=list(clips))
    criteria = {cell: value for cell in tuning_cells(found) if (value := criterion(cell)) is not None}
    return choose_settings(found, criteria, skip_failed)[JPEG, "uniform"]


def test_the_best_mean_over_tuning_seeds_is_chosen() -> None:
    found = choice(lambda cell: {0.005: 3.0, 0.01: 5.0, 0.02: 4.0}[cell.rate] + (cell.rate == 0.02 and cell.seed == 1))
    assert (found.setting, found.warning) == (Setting(0.01, CLIP), "")
    assert {setting.learning_rate: by_seed for setting, by_seed in found.criteria.items()} == {
        0.005: {1: 3, 2: 3},
        0.01: {1: 5, 2: 5},
        0.02: {1: 5, 2: 4},
    }


@pytest.mark.parametrize(("sign", "edge", "rate"), [(1, "highest", 0.02), (-1, "lowest", 0.005)])
def test_a_rate_at_the_edge_of_the_grid_has_a_warning(sign: int, edge: str, rate: float) -> None:
    found = choice(lambda cell: sign * cell.rate)
    assert found.setting == Setting(rate, CLIP)
    assert edge in found.warning


def test_of_equal_rates_the_lowest_is_chosen() -> None:
    assert choice(lambda cell: 0.0, clips=(0.01, 0.05)).setting == Setting(0.005, 0.01)


def test_the_clip_range_is_chosen_together_with_the_rate() -> None:
    """The best clip range at the best rate is not the best one at another rate."""
    best = {(0.005, 0.01): 3.0, (0.01, 0.05): 4.0}
    found = choice(lambda cell: best.get((cell.rate, cell.clip or 0), 0.0), clips=(0.01, 0.05, 0.25))
    assert (found.setting, found.warning) == (Setting(0.01, 0.05), "")
    entry = next(one for one in found.as_json()["grid"] if (one["learning_rate"], one["clip_range"]) == (0.005, 0.01))
    assert entry["mean"] == 3 and len(found.as_json()["grid"]) == 9
    assert found.as_json()["clip_range"] == 0.05


@pytest.mark.parametrize(("sign", "edge", "clip"), [(1, "highest", 0.25), (-1, "lowest", 0.01)])
def test_a_clip_range_at_the_edge_of_the_grid_has_a_warning(sign: int, edge: str, clip: float) -> None:
    found = choice(lambda cell: sign * (cell.clip or 0) - abs(cell.rate - 0.01), clips=(0.01, 0.05, 0.25))
    assert found.setting == Setting(0.01, clip)
    assert f"the {edge} clip range" in found.warning and "learning rate" not in found.warning


def test_each_arm_is_tuned_on_its_own_runs() -> None:
    assert choice(lambda cell: cell.rate if cell.arm == "linear" else -abs(cell.rate - 0.01)).setting == Setting(
        0.01, CLIP
    )


def test_failed_runs_prevent_a_choice_unless_skipped() -> None:
    def broken(cell: Cell) -> float | None:
        return None if (cell.rate, cell.seed) == (0.02, 2) else cell.rate

    assert choice(broken).setting is None
    found = choice(broken, skip_failed=True)
    assert found.setting == Setting(0.01, CLIP)
    assert "learning rate 0.02" in found.warning
    assert choice(lambda cell: None, skip_failed=True).setting is None
