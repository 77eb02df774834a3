"""The runs of a comparison: on tuning seeds every arm at every setting, on fresh seeds every arm at its best one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from stepcredit.comparison.protocol import Protocol
from stepcredit.comparison.settings import Setting
from stepcredit.config import TrainConfig

Settings = Mapping[tuple[str, str], Setting]
"""The setting of every (reward, arm)."""


@dataclass(frozen=True)
class Cell:
    """One run: a cell of the grid of rewards, arms, settings and seeds.

    Attributes:
        clip: the clip range; None in comparisons of version 0.1, which did not tune it.
    """

    phase: Literal["tuning", "fresh"]
    reward: str
    arm: str
    rate: float
    seed: int
    clip: float | None = None

    @property
    def setting(self) -> Setting | None:
        """None in comparisons of version 0.1."""
        return None if self.clip is None else Setting(self.rate, self.clip)

    @property
    def name(self) -> str:
        """The run's folder below the folder of all runs, and its name in messages."""
        clip = "" if self.clip is None else f"-clip-{self.clip!r}"
        return f"{self.phase}/{self.reward}/{self.arm}/lr-{self.rate!r}{clip}/seed-{self.seed}"

    def config(self, protocol: Protocol) -> TrainConfig:
        return protocol.config(self.reward, self.arm, self.setting, self.seed)


def tuning_cells(protocol: Protocol) -> list[Cell]:
    """The runs from which settings are chosen, seed by seed. Arms with a single setting have none."""
    grids = {arm: protocol.grid(arm) for arm in protocol.arms if tuned(protocol, arm)}
    return [
        Cell("tuning", reward, arm, setting.learning_rate, seed, setting.clip_range)
        for seed in protocol.tuning_seeds
        for reward, arm in pairs(protocol)
        for setting in grids.get(arm, ())
    ]


def fresh_cells(protocol: Protocol, settings: Settings) -> list[Cell]:
    """The runs that are compared, seed by seed. Arms without a setting in `settings` have none."""
    return [
        Cell("fresh", reward, arm, settings[reward, arm].learning_rate, seed, settings[reward, arm].clip_range)
        for seed in protocol.fresh_seeds
        for reward, arm in pairs(protocol)
        if (reward, arm) in settings
    ]


def pairs(protocol: Protocol) -> Iterator[tuple[str, str]]:
    """Every (reward, arm)."""
    return ((reward, arm) for reward in protocol.rewards for arm in protocol.arms)


def tuned(protocol: Protocol, arm: str) -> bool:
    """Whether the arm has several settings to choose from."""
    return len(protocol.grid(arm)) > 1
