"""Which learning rate an arm gets: the best of the grid on the tuning seeds, the same way for every arm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stepcredit.comparison.cells import Cell, Chosen, pairs, tuned, tuning_cells
from stepcredit.comparison.protocol import Protocol


@dataclass(frozen=True)
class Choice:
    """How the learning rate of one arm on one reward came about.

    Attributes:
        rate: None where runs failed and none can be chosen.
        criteria: for each rate of the grid, the criterion of each tuning seed; empty where there was no choice.
        remark: what is to be said about it.
    """

    rate: float | None
    criteria: Mapping[float, Mapping[int, float]]
    remark: str = ""

    def plain(self) -> dict[str, Any]:
        """As JSON holds it."""
        grid = [
            {
                "learning_rate": rate,
                "mean": sum(found.values()) / len(found) if found else None,
                "by_seed": [{"seed": seed, "criterion": value} for seed, value in found.items()],
            }
            for rate, found in self.criteria.items()
        ]
        return {"learning_rate": self.rate, "grid": grid, "remark": self.remark}


Choices = Mapping[tuple[str, str], Choice]
"""By reward and arm."""


def choose(protocol: Protocol, criteria: Mapping[Cell, float], skip_failed: bool = False) -> Choices:
    """The choice of every arm on every reward.

    The rate with the highest criterion, on average over the tuning seeds; of equal ones the lowest.

    Args:
        criteria: of the tuning runs that are finished.
        skip_failed: choose among the rates of which every seed is there, where others are not.
    """
    return {
        (reward, arm): (
            _best(protocol, reward, arm, criteria, skip_failed)
            if tuned(protocol, arm)
            else Choice(protocol.grid(arm)[0], {})
        )
        for reward, arm in pairs(protocol)
    }


def chosen(choices: Choices) -> Chosen:
    """The rates that could be chosen."""
    return {pair: choice.rate for pair, choice in choices.items() if choice.rate is not None}


def _best(protocol: Protocol, reward: str, arm: str, criteria: Mapping[Cell, float], skip_failed: bool) -> Choice:
    grid = sorted(protocol.grid(arm))
    cells = [cell for cell in tuning_cells(protocol) if (cell.reward, cell.arm) == (reward, arm)]
    found = {
        rate: {cell.seed: criteria[cell] for cell in cells if cell.rate == rate and cell in criteria} for rate in grid
    }
    whole = [rate for rate in grid if len(found[rate]) == len(protocol.tuning_seeds)]
    if not whole or (len(whole) < len(grid) and not skip_failed):
        return Choice(None, found, "no rate chosen: tuning runs failed")
    best = max(whole, key=lambda rate: (sum(found[rate].values()), -rate))
    return Choice(best, found, "; ".join(_remarks(best, grid, whole)))


def _remarks(best: float, grid: Sequence[float], whole: Sequence[float]) -> list[str]:
    failed = [rate for rate in grid if rate not in whole]
    remarks = [f"rates out of the choice because runs failed: {', '.join(f'{rate:g}' for rate in failed)}"]
    edge = {grid[0]: "lowest", grid[-1]: "highest"}.get(best)
    at_edge = f"the {edge} rate of the grid was chosen: a better one may lie beyond"
    return (remarks if failed else []) + ([at_edge] if edge else [])
