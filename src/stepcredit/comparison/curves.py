"""The learning curve of a finished run: mean reward of its training images by epoch, and what each epoch cost."""

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
        queries: (E,), images scored so far, including those of the epoch.
        rewards: (E,), mean reward of the epoch's training images.
        watched: (E,) for each reward that was measured but not trained on.
        seconds: (E,), spent so far on sampling, scoring, credit and training. Start-up, image grids and checkpoints are
            not included.
        credit_seconds: (E,), the part of `seconds` spent on credit.
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
        """Trailing means of the rewards. The last one is the criterion."""
        return trailing_mean(self.rewards, last_epochs)

    def queries_to(self, level: float, last_epochs: int) -> float | None:
        """Queries after which the trailing mean first reaches `level`; None if it never does."""
        return first_reached(self.queries, self.smooth(last_epochs), level)

    def queries_to_end(self, last_epochs: int) -> float:
        """Queries after which the trailing mean first reaches the criterion, which may be before the last epoch."""
        reached = self.queries_to(self.criterion(last_epochs), last_epochs)
        assert reached is not None, "the last trailing mean is the criterion"
        return reached

    def seconds_at(self, queries: float) -> float:
        """Seconds that the first `queries` queries took."""
        zero = torch.zeros(1, dtype=torch.float64)
        return value_at(torch.cat([zero, self.queries]), torch.cat([zero, self.seconds]), queries)

    def watched_at(self, name: str, queries: float, last_epochs: int) -> float:
        """The trailing mean of a watched reward after `queries` queries."""
        return value_at(self.queries, trailing_mean(self.watched[name], last_epochs), queries)


def read_curve(run: Path, watch: tuple[str, ...], epochs: int) -> Curve:
    """Read the curve of a finished run from its metrics.

    Raises:
        InputError: the metrics do not hold exactly `epochs` epochs.
    """
    rows = RunDirectory(run).metrics()
    if [row.get("epoch") for row in rows] != list(range(1, epochs + 1)):
        raise InputError(f"{run / 'metrics.jsonl'} does not hold {epochs} epochs: delete the folder and run again")
    components = rows[0].get("reward_components", {})
    return Curve(
        _column([row["reward_queries"] for row in rows]),
        _column([row["reward_mean"] for row in rows]),
        {
            name: _column([row["reward_components"][name]["mean"] for row in rows])
            for name in (reward.rpartition(":")[2] for reward in watch)
            if name in components
        },
        _column(list(accumulate(map(epoch_seconds, rows)))),
        _column(list(accumulate(float(row.get("seconds_credit", 0.0)) for row in rows))),
    )


def _column(values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)
