"""Figures of an epoch's updates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from stepcredit.distributed.process_group import ProcessGroup
from stepcredit.errors import ResumableError

_FIGURES = ("approx_kl", "clip_fraction", "reference_kl", "loss", "grad_norm", "first_ratio")


@dataclass
class UpdateMetrics:
    """Figures of every forward of an epoch; tensors until `summary`, so that no step waits for the device.

    Attributes:
        pairs: how many (image, step) pairs each forward counts for; the sum of their weights where steps are drawn.
        approx_kl, clip_fraction, reference_kl, loss: weighted means over the pairs of each forward.
        grad_norm: of each update.
        first_ratio: max |ratio - 1| of each forward before the first update.
        skipped: updates that were not made because their loss or gradient was not finite; the figures above are of the
            others, but for `first_ratio`.
    """

    pairs: list[float] = field(default_factory=list)
    approx_kl: list[Tensor] = field(default_factory=list)
    clip_fraction: list[Tensor] = field(default_factory=list)
    reference_kl: list[Tensor] = field(default_factory=list)
    loss: list[Tensor] = field(default_factory=list)
    grad_norm: list[Tensor] = field(default_factory=list)
    first_ratio: list[Tensor] = field(default_factory=list)
    skipped: int = 0

    def add(self, other: UpdateMetrics) -> None:
        """Take in the figures of one more update."""
        for name in ("pairs", *_FIGURES):
            getattr(self, name).extend(getattr(other, name))

    def skip(self, other: UpdateMetrics) -> None:
        """Count an update that was not made."""
        self.first_ratio += other.first_ratio
        self.skipped += 1

    def on_cpu(self) -> UpdateMetrics:
        """The same, as other processes can read it."""
        figures = {name: [value.cpu() for value in getattr(self, name)] for name in _FIGURES}
        return UpdateMetrics(self.pairs, skipped=self.skipped, **figures)

    def summary(self) -> dict[str, float]:
        """Means over the epoch's images and steps, NaN if every update was skipped.

        `ratio_max_deviation` is max |ratio - 1| before the first update.
        """
        shown = ["loss", "approx_kl", "clip_fraction", *(["reference_kl"] if self.reference_kl else [])]
        means = {name: self._mean(getattr(self, name)) for name in shown}
        norm = float(torch.stack(self.grad_norm).mean()) if self.grad_norm else math.nan
        deviation = float(torch.stack(self.first_ratio).max())
        return {"ratio_max_deviation": deviation, **means, "grad_norm": norm, "skipped_updates": self.skipped}

    def _mean(self, figures: Sequence[Tensor]) -> float:
        return float(np.average(torch.stack(list(figures)).tolist(), weights=self.pairs)) if figures else math.nan


def gather_metrics(statistics: UpdateMetrics, processes: ProcessGroup) -> UpdateMetrics:
    """The statistics of all processes.

    Raises:
        ResumableError: their gradients have not been the same.
    """
    if processes.world_size == 1:
        return statistics
    found = processes.all_gather(statistics.on_cpu())
    if any([*map(float, other.grad_norm)] != [*map(float, found[0].grad_norm)] for other in found):
        raise ResumableError("the processes of this run have come to different gradients")
    whole = UpdateMetrics(grad_norm=found[0].grad_norm, skipped=statistics.skipped)
    for other in found:
        whole.add(replace(other, grad_norm=[]))
    return whole
