"""The runs of a comparison: on tuning seeds every arm at every rate, on fresh seeds every arm at its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from stepcredit.comparison.protocol import Protocol
from stepcredit.config import TrainConfig

Chosen = Mapping[tuple[str, str], float]
"""The learning rate of every (reward, arm)."""


@dataclass(frozen=True)
class Cell:
    """One run."""

    phase: Literal["tuning", "fresh"]
    reward: str
    arm: str
    rate: float
    seed: int

    @property
    def name(self) -> str:
        """Where the run is, under the folder of all runs, and what messages call it."""
        return f"{self.phase}/{self.reward}/{self.arm}/lr-{self.rate!r}/seed-{self.seed}"

    def config(self, protocol: Protocol) -> TrainConfig:
        return protocol.config(self.reward, self.arm, self.rate, self.seed)


def tuning_cells(protocol: Protocol) -> list[Cell]:
    """Seed by seed, of the arms that have a rate to choose."""
    return [
        Cell("tuning", reward, arm, rate, seed)
        for seed in protocol.tuning_seeds
        for reward, arm in pairs(protocol)
        for rate in (protocol.grid(arm) if tuned(protocol, arm) else ())
    ]


def fresh_cells(protocol: Protocol, chosen: Chosen) -> list[Cell]:
    """Seed by seed, of the arms whose rate is chosen."""
    return [
        Cell("fresh", reward, arm, chosen[reward, arm], seed)
        for seed in protocol.fresh_seeds
        for reward, arm in pairs(protocol)
        if (reward, arm) in chosen
    ]


def pairs(protocol: Protocol) -> Iterator[tuple[str, str]]:
    """Every (reward, arm)."""
    return ((reward, arm) for reward in protocol.rewards for arm in protocol.arms)


def tuned(protocol: Protocol, arm: str) -> bool:
    return len(protocol.grid(arm)) > 1
