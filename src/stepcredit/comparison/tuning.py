"""Choose the learning rate and the clip range of every arm: the best on the tuning seeds, by the same rule for all."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stepcredit.comparison.cells import Cell, Settings, pairs, tuned, tuning_cells
from stepcredit.comparison.protocol import Protocol
from stepcredit.comparison.settings import Setting


@dataclass(frozen=True)
class Choice:
    """The setting of one arm on one reward.

    Attributes:
        setting: None if too many tuning runs failed to choose one.
        criteria: for each setting of the grid, the criterion by tuning seed; empty if the arm has a single setting.
        warning: a warning about the choice; otherwise empty.
    """

    setting: Setting | None
    criteria: Mapping[Setting, Mapping[int, float]]
    warning: str = ""

    def as_json(self) -> dict[str, Any]:
        """Plain data that can be written as JSON."""
        grid = [
            {
                "learning_rate": setting.learning_rate,
                "clip_range": setting.clip_range,
                "mean": sum(by_seed.values()) / len(by_seed) if by_seed else None,
                "by_seed": [{"seed": seed, "criterion": value} for seed, value in by_seed.items()],
            }
            for setting, by_seed in self.criteria.items()
        ]
        return {
            "learning_rate": self.setting.learning_rate if self.setting else None,
            "clip_range": self.setting.clip_range if self.setting else None,
            "grid": grid,
            "warning": self.warning,
        }


Choices = Mapping[tuple[str, str], Choice]
"""By reward and arm."""


def choose_settings(protocol: Protocol, criteria: Mapping[Cell, float], skip_failed: bool = False) -> Choices:
    """Choose a setting for every arm on every reward.

    The setting with the highest criterion, averaged over the tuning seeds, is chosen. Of equal ones it is the one with
    the lowest learning rate, then the one with the lowest clip range.

    Args:
        criteria: of the finished tuning runs.
        skip_failed: if runs failed, choose among the settings for which all seeds finished. Otherwise none is chosen.
    """
    return {
        (reward, arm): (
            _best(protocol, reward, arm, criteria, skip_failed)
            if tuned(protocol, arm)
            else Choice(protocol.grid(arm)[0], {})
        )
        for reward, arm in pairs(protocol)
    }


def chosen_settings(choices: Choices) -> Settings:
    """The settings that could be chosen."""
    return {pair: choice.setting for pair, choice in choices.items() if choice.setting is not None}


def _best(protocol: Protocol, reward: str, arm: str, criteria: Mapping[Cell, float], skip_failed: bool) -> Choice:
    grid = sorted(protocol.grid(arm))
    cells = [cell for cell in tuning_cells(protocol) if (cell.reward, cell.arm) == (reward, arm)]
    by_setting = {
        setting: {cell.seed: criteria[cell] for cell in cells if cell.setting == setting and cell in criteria}
        for setting in grid
    }
    complete = [setting for setting in grid if len(by_setting[setting]) == len(protocol.tuning_seeds)]
    if not complete or (len(complete) < len(grid) and not skip_failed):
        return Choice(None, by_setting, "no setting was chosen, because tuning runs failed")
    best = max(complete, key=lambda setting: sum(by_setting[setting].values()))  # the first of equal ones
    failed = [setting for setting in grid if setting not in complete]
    warnings = [f"excluded because runs failed: {'; '.join(map(str, failed))}"] if failed else []
    warnings += _edge("learning rate", best, grid, lambda setting: setting.learning_rate)
    warnings += _edge("clip range", best, grid, lambda setting: setting.clip_range)
    return Choice(best, by_setting, "; ".join(warnings))


def _edge(name: str, best: Setting, grid: Sequence[Setting], value: Callable[[Setting], float]) -> list[str]:
    """A warning if the choice lies at the edge of its grid."""
    low, high = (end(map(value, grid)) for end in (min, max))
    if low == high or low < value(best) < high:
        return []
    edge = "lowest" if value(best) == low else "highest"
    return [f"the {edge} {name} of the grid was chosen: extend the grid, a better one may lie beyond"]
