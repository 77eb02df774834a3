"""Figures of an epoch's updates."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from stepcredit.distributed.process_group import ProcessGroup
from stepcredit.errors import ResumableError

RUN_METRICS = frozenset(
    {
        "epoch",
        "reward_queries",
        "reward_mean",
        "reward_std",
        "pass_rate",
        "reward_components",
        "reward_by_tag",
        "constant_groups",
        "loss",
        "grad_norm",
        "skipped_updates",
        "native_scale",
        "update_profile",
        "peak_memory_bytes",
    }
)
"""Names in metrics.jsonl that no algorithm may use; neither may names that begin with `credit_` or `seconds_`."""


@dataclass
class UpdateMetrics:
    """Figures of every forward of an epoch; tensors until `summary`, so that no step waits for the device.

    Attributes:
        pairs: how many (image, step) pairs each forward counts for; the sum of their weights where steps are drawn.
        means: by name, the weighted mean over the pairs of all forwards. Skipped updates do not count. Every forward
            has to report the same names.
        maxima: by name, the largest figure of each forward, of all updates.
        grad_norm: of each update that was made.
        skipped: updates that were not made because their loss or gradient was not finite.
    """

    pairs: list[float] = field(default_factory=list)
    means: dict[str, list[Tensor]] = field(default_factory=dict)
    maxima: dict[str, list[Tensor]] = field(default_factory=dict)
    grad_norm: list[Tensor] = field(default_factory=list)
    skipped: int = 0

    def record(self, pairs: float, means: Mapping[str, Tensor], maxima: Mapping[str, Tensor]) -> None:
        """Add the figures of one forward of `pairs` pairs. Raises ValueError if its means have other names."""
        if self.pairs and means.keys() != self.means.keys():
            raise ValueError(f"a forward reports the means {sorted(means)}, an earlier one {sorted(self.means)}")
        self.pairs.append(pairs)
        _extend(self.means, {name: [value] for name, value in means.items()})
        _extend(self.maxima, {name: [value] for name, value in maxima.items()})

    def add(self, other: UpdateMetrics) -> None:
        """Add the figures of an update that was made."""
        self.pairs += other.pairs
        self.grad_norm += other.grad_norm
        _extend(self.means, other.means)
        _extend(self.maxima, other.maxima)

    def skip(self, other: UpdateMetrics) -> None:
        """Count an update that was not made."""
        _extend(self.means, {name: [] for name in other.means})
        _extend(self.maxima, other.maxima)
        self.skipped += 1

    def on_cpu(self) -> UpdateMetrics:
        """The same on the CPU, where other processes can read it."""
        means, maxima = (
            {name: [value.cpu() for value in values] for name, values in kind.items()}
            for kind in (self.means, self.maxima)
        )
        return UpdateMetrics(self.pairs, means, maxima, [norm.cpu() for norm in self.grad_norm], self.skipped)

    def summary(self) -> dict[str, float]:
        """Maxima and means over the epoch's pairs. Means are NaN if every update was skipped."""
        maxima = {name: float(torch.stack(values).max()) for name, values in self.maxima.items()}
        means = {name: self._mean(values) for name, values in self.means.items()}
        norm = float(torch.stack(self.grad_norm).mean()) if self.grad_norm else math.nan
        return {**maxima, **means, "grad_norm": norm, "skipped_updates": self.skipped}

    def _mean(self, figures: Sequence[Tensor]) -> float:
        return float(np.average(torch.stack(list(figures)).tolist(), weights=self.pairs)) if figures else math.nan


def gather_metrics(metrics: UpdateMetrics, processes: ProcessGroup) -> UpdateMetrics:
    """The metrics of all processes.

    Raises:
        ResumableError: their gradients differ.
    """
    if processes.world_size == 1:
        return metrics
    gathered = processes.all_gather(metrics.on_cpu())
    if any([*map(float, other.grad_norm)] != [*map(float, gathered[0].grad_norm)] for other in gathered):
        raise ResumableError("the ranks of this run computed different gradients")
    whole = UpdateMetrics(grad_norm=gathered[0].grad_norm, skipped=metrics.skipped)
    for other in gathered:
        whole.add(replace(other, grad_norm=[]))
    return whole


def _extend(target: dict[str, list[Tensor]], values: Mapping[str, Sequence[Tensor]]) -> None:
    for name, entries in values.items():
        target.setdefault(name, []).extend(entries)
