"""Stages of a build: each runs once and stores its result and its duration, so a build can be resumed."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from rich.progress import Progress as Bar
from rich.progress import SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

Result = TypeVar("Result")


class Stages:
    """The results in `folder`, and the duration of each stage in `seconds`, stored in `folder`/seconds.json."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._times = folder / "seconds.json"
        self.seconds: dict[str, float] = json.loads(self._times.read_text()) if self._times.exists() else {}

    def run(self, name: str, path: Path, build: Callable[[], Result], save: Callable[[Result, Path], None]) -> None:
        """Build and save a stage unless `path` exists. `path` appears only when the result is complete."""
        if path.exists():
            return
        started = time.monotonic()
        partial = path.with_name(f"partial-{path.name}")
        save(build(), partial)
        partial.rename(path)
        self.seconds[name] = round(time.monotonic() - started, 1)
        self._times.write_text(json.dumps(self.seconds, indent=1))


def show_progress(steps: Sequence[int], name: str) -> Iterator[int]:
    """Iterate with a progress bar on a terminal, and with 20 lines of progress elsewhere."""
    columns = (SpinnerColumn(), "{task.description}", TextColumn("{task.completed}/{task.total}"))
    with Bar(*columns, TimeElapsedColumn(), "left", TimeRemainingColumn()) as bar:
        started = time.monotonic()
        for step in bar.track(steps, description=name):
            if not bar.console.is_terminal and step % max(len(steps) // 20, 1) == 0:
                print(f"{name} {step}/{len(steps)} after {time.monotonic() - started:.0f} s", flush=True)
            yield step
