"""Time and memory of an epoch."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
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
        started = time.perf_counter()
        try:
            with torch.profiler.record_function(phase):
                yield
        finally:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            self.add(phase, time.perf_counter() - started)

    def add(self, phase: str, seconds: float) -> None:
        """Count seconds that were measured elsewhere."""
        self._seconds[phase] = self._seconds.get(phase, 0.0) + seconds

    def metrics(self) -> dict[str, float]:
        """`seconds_<phase>` of every phase, rounded to the millisecond."""
        return {f"seconds_{phase}": round(seconds, 3) for phase, seconds in self._seconds.items()}


def epoch_seconds(row: Mapping[str, Any]) -> float:
    """What an epoch took, of its row of metrics. `seconds_reward` is beside sampling; `seconds_waiting` is its rest."""
    beside = {"seconds_reward"} if "seconds_waiting" in row else set()
    return float(sum(value for key, value in row.items() if key.startswith("seconds_") and key not in beside))


def peak_memory_bytes() -> int:
    """Most memory held so far: allocated on the CUDA device if there is one, else resident in this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def available_memory_bytes(device: torch.device) -> int:
    """Memory that can still be taken: of the CUDA device, or of this machine or its control group."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    free: int = psutil.virtual_memory().available
    limit, used = (_number(Path("/sys/fs/cgroup") / name) for name in ("memory.max", "memory.current"))
    return free if limit is None or used is None else min(free, max(limit - used, 0))


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # no such control group, or "max"
        return None
