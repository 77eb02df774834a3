"""What the fresh runs left besides their curves: the rows of every epoch, and sample grids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stepcredit.comparison.cells import Cell
from stepcredit.comparison.directory import ComparisonDirectory
from stepcredit.errors import InputError
from stepcredit.report.pictures import Picture, first_and_last
from stepcredit.report.rows import Row
from stepcredit.runs.directory import RunDirectory

Runs = Mapping[str, Mapping[int, Path]]
"""The fresh runs on one reward, by arm and seed."""


@dataclass(frozen=True)
class Samples:
    """Sample grids of every arm with one seed.

    Attributes:
        seed: None where no run has any.
    """

    seed: int | None
    pictures: Sequence[Picture]


def fresh_runs(directory: ComparisonDirectory, reward: str, arms: Mapping[str, Any]) -> Runs:
    """Where the runs are that `arms`, of one reward in results.json, speak of.

    Raises:
        InputError: a name leads out of the folder of runs.
    """
    return {
        arm: {
            row["seed"]: _inside(directory, Cell("fresh", reward, arm, found["tuning"]["learning_rate"], row["seed"]))
            for row in found["by_seed"]
        }
        for arm, found in arms.items()
    }


def rows_by_arm(runs: Runs) -> dict[str, list[Row]]:
    """The rows of all seeds of each arm; none of runs that are no longer there."""
    return {
        arm: [row for run in by_seed.values() for row in RunDirectory(run).metrics()] for arm, by_seed in runs.items()
    }


def samples(runs: Runs) -> Samples:
    """The first and the last grid of every arm, with the first seed that has any; a first one they share is once."""
    for seed in dict.fromkeys(seed for by_seed in runs.values() for seed in by_seed):
        grids = {arm: first_and_last(by_seed[seed] / "samples") for arm, by_seed in runs.items() if seed in by_seed}
        named: dict[bytes, str] = {}
        for picture in (found[0] for found in grids.values() if found):
            named.setdefault(picture.png, picture.name)
        shared = len(named) == 1
        pictures = [Picture(name, png) for png, name in named.items()] if shared else []
        for arm, found in grids.items():
            own = found[1:] if shared else found
            pictures += [Picture(f"{arm}, {one.name[0].lower()}{one.name[1:]}", one.png) for one in own]
        if pictures:
            return Samples(seed, pictures)
    return Samples(None, [])


def _inside(directory: ComparisonDirectory, cell: Cell) -> Path:
    if any(not name or name == ".." or "/" in name or "\\" in name for name in (cell.reward, cell.arm)):
        raise InputError(f"{directory.results_path} names a run outside its folder: {cell.name}")
    return directory.run(cell)
