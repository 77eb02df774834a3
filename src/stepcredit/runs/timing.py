"""Seconds of each phase of an epoch."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch


class Clock:
    """Seconds spent in named phases.

    >>> clock = Clock()
    >>> with clock("sampling"):
    ...     pass
    >>> list(clock.metrics())
    ['seconds_sampling']
    """

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        """Add the time of the `with` block to `phase`. On an accelerator, pending kernels are included."""
        started = time.perf_counter()
        try:
            with torch.profiler.record_function(phase):
                yield
        finally:
            if torch.accelerator.is_available():
                torch.accelerator.synchronize()
            self.add(phase, time.perf_counter() - started)

    def add(self, phase: str, seconds: float) -> None:
        """Add seconds that were measured elsewhere."""
        self._seconds[phase] = self._seconds.get(phase, 0.0) + seconds

    def metrics(self) -> dict[str, float]:
        """`seconds_<phase>` of every phase, rounded to the millisecond."""
        return {f"seconds_{phase}": round(seconds, 3) for phase, seconds in self._seconds.items()}


def epoch_seconds(row: Mapping[str, Any]) -> float:
    """Duration of an epoch, from its row of metrics.jsonl.

    `seconds_reward` overlaps with sampling, so that only `seconds_waiting`, the part after sampling, is counted.
    """
    overlapping = {"seconds_reward"} if "seconds_waiting" in row else set()
    return float(sum(value for key, value in row.items() if key.startswith("seconds_") and key not in overlapping))
