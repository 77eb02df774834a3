"""Profile one epoch with torch's profiler: a trace for a viewer and a table of operations."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from stepcredit.runs.progress import Progress

TRACE, TABLE = "trace.json", "table.txt"
_ROWS = 40
_HEADER = """From the start of the epoch to the end of its first update, which later updates repeat, or to the end of
the epoch if no update was made. The profiler adds overhead to every operation. Other threads, such as that of the
reward, are not included.
"""


def profiled_epoch(first: int, epochs: int) -> int:
    """The epoch to profile out of `first` .. `epochs` - 1: the second if there is one, since the first warms up."""
    return min(first + 1, epochs - 1)


@contextmanager
def profiled(folder: Path, optimizer: torch.optim.Optimizer, progress: Progress) -> Iterator[None]:
    """Profile the block up to the first step of `optimizer`, then write `TRACE` and `TABLE` into `folder`.

    An operation takes 0.3 kB in the trace and a few kB in memory, so a whole epoch of many updates would be too large.
    `TRACE` is in Chrome's format (chrome://tracing, ui.perfetto.dev). Nothing is written if the block raises.
    """
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # otherwise it prints when it starts and stops
    recorder = profile(activities=_activities())
    running = True

    def stop(*_: Any) -> None:  # stopping the profiler twice crashes
        nonlocal running
        if running:
            running = False
            recorder.stop()

    recorder.start()
    hook = optimizer.register_step_post_hook(stop)
    try:
        yield
    finally:
        hook.remove()
        stop()
    progress.phase("profile")
    folder.mkdir(parents=True, exist_ok=True)
    recorder.export_chrome_trace(str(folder / TRACE))
    (folder / TABLE).write_text(table(recorder), encoding="utf-8")
    progress.note(f"profile: {folder / TABLE}, {folder / TRACE} ({(folder / TRACE).stat().st_size / 1e6:.1f} MB)")


def table(recorder: profile) -> str:
    """The phases of the epoch, then the operations, sorted by the time that they take themselves."""
    averages: Any = recorder.key_averages()
    on_device = ProfilerActivity.CUDA in _activities()
    phases = sorted((row for row in averages if row.is_user_annotation), key=lambda row: -row.cpu_time_total)
    lines = [f"{'phase':<40}{'seconds':>12}{'times':>8}"]
    lines += [f"{row.key:<40}{row.cpu_time_total / 1e6:>12.3f}{row.count:>8}" for row in phases]
    by = "self_device_time_total" if on_device else "self_cpu_time_total"
    operations = averages.table(sort_by=by, row_limit=_ROWS, max_name_column_width=60)
    return "\n".join([_HEADER, *lines, "", operations])


def _activities() -> list[ProfilerActivity]:
    return [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])]
