"""The stages of a build: each runs once, leaves its result and its time in a folder, and shows how far it is."""

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
    """The results in `folder`, and `seconds`: what each stage took, as kept in `folder`/seconds.json."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._times = folder / "seconds.json"
        self.seconds: dict[str, float] = json.loads(self._times.read_text()) if self._times.exists() else {}

    def run(self, name: str, path: Path, build: Callable[[], Result], save: Callable[[Result, Path], None]) -> None:
        """Build and save a stage unless its result is there; it appears under its name only when it is whole."""
        if path.exists():
            return
        started = time.monotonic()
        partial = path.with_name(f"partial-{path.name}")
        save(build(), partial)
        partial.rename(path)
        self.seconds[name] = round(time.monotonic() - started, 1)
        self._times.write_text(json.dumps(self.seconds, indent=1))


def show_progress(steps: Sequence[int], name: str) -> Iterator[int]:
    """A bar on a terminal; elsewhere a line every twentieth of the way."""
    columns = (SpinnerColumn(), "{task.description}", TextColumn("{task.completed}/{task.total}"))
    with Bar(*columns, TimeElapsedColumn(), "left", TimeRemainingColumn()) as bar:
        started = time.monotonic()
        for step in bar.track(steps, description=name):
            if not bar.console.is_terminal and step % max(len(steps) // 20, 1) == 0:
                print(f"{name} {step}/{len(steps)} after {time.monotonic() - started:.0f} s", flush=True)
            yield step
