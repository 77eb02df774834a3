"""Choose the learning rate of every arm: the best of the grid on the tuning seeds, by the same rule for all arms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stepcredit.comparison.cells import Cell, Rates, pairs, tuned, tuning_cells
from stepcredit.comparison.protocol import Protocol


@dataclass(frozen=True)
class RateChoice:
    """The learning rate of one arm on one reward.

    Attributes:
        rate: None if too many tuning runs failed to choose one.
        criteria: for each rate of the grid, the criterion by tuning seed; empty if the arm has a single rate.
        remark: a warning about the choice; otherwise empty.
    """

    rate: float | None
    criteria: Mapping[float, Mapping[int, float]]
    remark: str = ""

    def as_json(self) -> dict[str, Any]:
        """Plain data that can be written as JSON."""
        grid = [
            {
                "learning_rate": rate,
                "mean": sum(by_seed.values()) / len(by_seed) if by_seed else None,
                "by_seed": [{"seed": seed, "criterion": value} for seed, value in by_seed.items()],
            }
            for rate, by_seed in self.criteria.items()
        ]
        return {"learning_rate": self.rate, "grid": grid, "remark": self.remark}


RateChoices = Mapping[tuple[str, str], RateChoice]
"""By reward and arm."""


def choose_rates(protocol: Protocol, criteria: Mapping[Cell, float], skip_failed: bool = False) -> RateChoices:
    """Choose a rate for every arm on every reward.

    The rate with the highest criterion, averaged over the tuning seeds, is chosen. Of equal rates it is the lowest.

    Args:
        criteria: of the finished tuning runs.
        skip_failed: if runs failed, choose among the rates for which all seeds finished. Otherwise no rate is chosen.
    """
    return {
        (reward, arm): (
            _best(protocol, reward, arm, criteria, skip_failed)
            if tuned(protocol, arm)
            else RateChoice(protocol.grid(arm)[0], {})
        )
        for reward, arm in pairs(protocol)
    }


def chosen_rates(choices: RateChoices) -> Rates:
    """The rates that could be chosen."""
    return {pair: choice.rate for pair, choice in choices.items() if choice.rate is not None}


def _best(protocol: Protocol, reward: str, arm: str, criteria: Mapping[Cell, float], skip_failed: bool) -> RateChoice:
    grid = sorted(protocol.grid(arm))
    cells = [cell for cell in tuning_cells(protocol) if (cell.reward, cell.arm) == (reward, arm)]
    by_rate = {
        rate: {cell.seed: criteria[cell] for cell in cells if cell.rate == rate and cell in criteria} for rate in grid
    }
    complete = [rate for rate in grid if len(by_rate[rate]) == len(protocol.tuning_seeds)]
    if not complete or (len(complete) < len(grid) and not skip_failed):
        return RateChoice(None, by_rate, "no learning rate was chosen, because tuning runs failed")
    best = max(complete, key=lambda rate: (sum(by_rate[rate].values()), -rate))
    return RateChoice(best, by_rate, "; ".join(_remarks(best, grid, complete)))


def _remarks(best: float, grid: Sequence[float], complete: Sequence[float]) -> list[str]:
    remarks = []
    failed = [rate for rate in grid if rate not in complete]
    if failed:
        remarks.append(f"learning rates excluded because runs failed: {', '.join(f'{rate:g}' for rate in failed)}")
    if best in (grid[0], grid[-1]):
        edge = "lowest" if best == grid[0] else "highest"
        remarks.append(f"the {edge} learning rate of the grid was chosen: extend the grid, a better one may lie beyond")
    return remarks
