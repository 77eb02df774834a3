"""What a finished run measured: rewards of its training images, epoch by epoch, and what each epoch cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import torch
from torch import Tensor

from stepcredit.errors import InputError
from stepcredit.runs.directory import RunDirectory
from stepcredit.runs.timing import epoch_seconds
from stepcredit.stats.efficiency import first_reached, trailing_mean, value_at


@dataclass(frozen=True)
class Curve:
    """One run of E epochs.

    Attributes:
        queries: (E,), images scored so far, those of the epoch included.
        rewards: (E,), mean reward of the epoch's training images.
        watched: (E,) of each reward that was measured and not trained on.
        seconds: (E,), spent so far on sampling, scoring, credit and training; start-up, grids and checkpoints left out.
        credit_seconds: (E,), of them on credit.
    """

    queries: Tensor
    rewards: Tensor
    watched: Mapping[str, Tensor]
    seconds: Tensor
    credit_seconds: Tensor

    def criterion(self, last_epochs: int) -> float:
        """Mean reward of the last epochs."""
        return float(self.rewards[-last_epochs:].mean())

    def smooth(self, last_epochs: int) -> Tensor:
        """Rewards as trailing means, whose last is the criterion."""
        return trailing_mean(self.rewards, last_epochs)

    def queries_to(self, level: float, last_epochs: int) -> float | None:
        """Queries after which the trailing mean first is at `level`; None if it never is."""
        return first_reached(self.queries, self.smooth(last_epochs), level)

    def queries_to_end(self, last_epochs: int) -> float:
        """Queries after which the trailing mean first is at the criterion, which it may be before the end."""
        reached = self.queries_to(self.criterion(last_epochs), last_epochs)
        assert reached is not None, "a curve's last value is its criterion"
        return reached

    def seconds_at(self, queries: float) -> float:
        """Seconds that so many queries took."""
        nothing = torch.zeros(1, dtype=torch.float64)
        return value_at(torch.cat([nothing, self.queries]), torch.cat([nothing, self.seconds]), queries)

    def watched_at(self, name: str, queries: float, last_epochs: int) -> float:
        """The trailing mean of a watched reward after so many queries."""
        return value_at(self.queries, trailing_mean(self.watched[name], last_epochs), queries)


def read_curve(run: Path, watch: tuple[str, ...], epochs: int) -> Curve:
    """The curve of a finished run.

    Raises:
        InputError: its metrics are not what a run of so many epochs writes.
    """
    rows = RunDirectory(run).metrics()
    if [row.get("epoch") for row in rows] != list(range(1, epochs + 1)):
        raise InputError(f"{run / 'metrics.jsonl'} does not hold {epochs} epochs: take the folder away and run again")
    components = rows[0].get("reward_components", {})
    return Curve(
        _column([row["reward_queries"] for row in rows]),
        _column([row["reward_mean"] for row in rows]),
        {
            name: _column([row["reward_components"][name]["mean"] for row in rows])
            for name in (one.rpartition(":")[2] for one in watch)
            if name in components
        },
        _column(list(accumulate(map(epoch_seconds, rows)))),
        _column(list(accumulate(float(row.get("seconds_credit", 0.0)) for row in rows))),
    )


def _column(values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)
