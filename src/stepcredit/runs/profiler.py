"""Where the time of an epoch goes, from torch's profiler: a trace to look at and a table to read."""

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
_HEAD = """From the start of the epoch to the end of its first update, or to its end if no update was made: later
updates repeat the first. The profiler adds time of its own to every operation. What runs in other threads, such as a
reward beside sampling, is not seen.
"""


def profiled_epoch(first: int, epochs: int) -> int:
    """Which of the epochs `first` .. `epochs` - 1 to look at: the second, since the first warms up, if there is one."""
    return min(first + 1, epochs - 1)


@contextmanager
def profiled(folder: Path, optimizer: torch.optim.Optimizer, progress: Progress) -> Iterator[None]:
    """Profile what is done inside, up to the first step of `optimizer`, and write `TRACE` and `TABLE` into `folder`.

    Every operation takes a third of a kilobyte in the trace and a few in memory, so that a whole epoch of many updates
    would fit neither a viewer nor the machine. `TRACE` is in Chrome's format (chrome://tracing, ui.perfetto.dev).
    Nothing is written if what is done inside fails.
    """
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # else it tells the terminal when it starts and stops
    recorder = profile(activities=_activities())
    running = True

    def stop(*_: Any) -> None:  # a second stop of the profiler is a crash
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
    """The phases of the epoch, then the operations, those with the most time of their own first."""
    averages: Any = recorder.key_averages()
    on_device = ProfilerActivity.CUDA in _activities()
    phases = sorted((row for row in averages if row.is_user_annotation), key=lambda row: -row.cpu_time_total)
    lines = [f"{'phase':<40}{'seconds':>12}{'times':>8}"]
    lines += [f"{row.key:<40}{row.cpu_time_total / 1e6:>12.3f}{row.count:>8}" for row in phases]
    by = "self_device_time_total" if on_device else "self_cpu_time_total"
    operations = averages.table(sort_by=by, row_limit=_ROWS, max_name_column_width=60)
    return "\n".join([_HEAD, *lines, "", operations])


def _activities() -> list[ProfilerActivity]:
    return [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])]
