"""Metrics and sample grids that the fresh runs left in their directories."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stepcredit.comparison.cells import Cell
from stepcredit.comparison.directory import ComparisonDirectory
from stepcredit.errors import InputError
from stepcredit.report.metrics import Row
from stepcredit.report.sample_grids import SampleGrid, first_and_last
from stepcredit.runs.directory import RunDirectory

Runs = Mapping[str, Mapping[int, Path]]
"""The fresh runs on one reward, by arm and seed."""


@dataclass(frozen=True)
class Samples:
    """Sample grids of every arm for one seed.

    Attributes:
        seed: None if no run has sample grids.
    """

    seed: int | None
    grids: Sequence[SampleGrid]


def fresh_runs(directory: ComparisonDirectory, reward: str, arms: Mapping[str, Any]) -> Runs:
    """The run directories of `arms`, which is what results.json holds of one reward.

    Raises:
        InputError: a name points outside the folder of runs.
    """
    return {
        arm: {
            row["seed"]: _inside(directory, _cell(reward, arm, result["tuning"], row["seed"]))
            for row in result["by_seed"]
        }
        for arm, result in arms.items()
    }


def rows_by_arm(runs: Runs) -> dict[str, list[Row]]:
    """The metrics of all seeds of each arm. Runs that were deleted have none."""
    return {
        arm: [row for run in by_seed.values() for row in RunDirectory(run).metrics()] for arm, by_seed in runs.items()
    }


def sample_grids(runs: Runs) -> Samples:
    """The first and the last grid of every arm, for the first seed that has any.

    A first grid that all arms share is returned once.
    """
    for seed in dict.fromkeys(seed for by_seed in runs.values() for seed in by_seed):
        by_arm = {arm: first_and_last(by_seed[seed] / "samples") for arm, by_seed in runs.items() if seed in by_seed}
        first = {grids[0].png: grids[0].name for grids in by_arm.values() if grids}
        shared = len(first) == 1
        selected = [SampleGrid(name, png) for png, name in first.items()] if shared else []
        for arm, grids in by_arm.items():
            selected += [_of_arm(arm, grid) for grid in (grids[1:] if shared else grids)]
        if selected:
            return Samples(seed, selected)
    return Samples(None, [])


def _of_arm(arm: str, grid: SampleGrid) -> SampleGrid:
    return SampleGrid(f"{arm}, {grid.name[0].lower()}{grid.name[1:]}", grid.png)


def _cell(reward: str, arm: str, tuning: Mapping[str, Any], seed: int) -> Cell:
    return Cell("fresh", reward, arm, tuning["learning_rate"], seed, tuning.get("clip_range"))


def _inside(directory: ComparisonDirectory, cell: Cell) -> Path:
    if any(not name or name == ".." or "/" in name or "\\" in name for name in (cell.reward, cell.arm)):
        raise InputError(f"{directory.results_path} names a run outside its folder: {cell.name}")
    return directory.run(cell)
