"""The runs of a comparison: on tuning seeds every arm at every learning rate, on fresh seeds every arm at its best."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from stepcredit.comparison.protocol import Protocol
from stepcredit.config import TrainConfig

Rates = Mapping[tuple[str, str], float]
"""The learning rate of every (reward, arm)."""


@dataclass(frozen=True)
class Cell:
    """One run: a cell of the grid of rewards, arms, learning rates and seeds."""

    phase: Literal["tuning", "fresh"]
    reward: str
    arm: str
    rate: float
    seed: int

    @property
    def name(self) -> str:
        """The run's folder below the folder of all runs, and its name in messages."""
        return f"{self.phase}/{self.reward}/{self.arm}/lr-{self.rate!r}/seed-{self.seed}"

    def config(self, protocol: Protocol) -> TrainConfig:
        return protocol.config(self.reward, self.arm, self.rate, self.seed)


def tuning_cells(protocol: Protocol) -> list[Cell]:
    """The runs from which learning rates are chosen, seed by seed. Arms with a single rate have none."""
    return [
        Cell("tuning", reward, arm, rate, seed)
        for seed in protocol.tuning_seeds
        for reward, arm in pairs(protocol)
        for rate in (protocol.grid(arm) if tuned(protocol, arm) else ())
    ]


def fresh_cells(protocol: Protocol, rates: Rates) -> list[Cell]:
    """The runs that are compared, seed by seed. Arms without a rate in `rates` have none."""
    return [
        Cell("fresh", reward, arm, rates[reward, arm], seed)
        for seed in protocol.fresh_seeds
        for reward, arm in pairs(protocol)
        if (reward, arm) in rates
    ]


def pairs(protocol: Protocol) -> Iterator[tuple[str, str]]:
    """Every (reward, arm)."""
    return ((reward, arm) for reward in protocol.rewards for arm in protocol.arms)


def tuned(protocol: Protocol, arm: str) -> bool:
    """Whether the arm has several learning rates to choose from."""
    return len(protocol.grid(arm)) > 1
