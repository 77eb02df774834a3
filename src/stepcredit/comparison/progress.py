"""One progress display for many runs, on stderr so that stdout is the result alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType

from rich.console import Console

from stepcredit.comparison.cells import Cell
from stepcredit.runs.progress import live_bar, restart


class Display:
    """A line for every run that ends, and on a terminal a live bar: epochs of all runs, runs, time. A context manager.

    Args:
        runs: how many there are in all.
        epochs: of all of them together.
    """

    def __init__(self, runs: int, epochs: int, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True)
        self.runs = runs
        self._done = 0
        self._done_epochs = 0
        self._bar = live_bar(
            self.console,
            "runs {task.fields[done]}/{task.fields[runs]}",
            "epochs {task.completed:.0f}/{task.total:.0f}",
            "{task.fields[now]}",
        )
        self._task = self._bar.add_task("", total=epochs, done=0, runs=runs, now="")

    def __enter__(self) -> Display:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def already(self, epochs: Sequence[int]) -> None:
        """Runs that were finished before, and their epochs; the time left is reckoned without them."""
        self._done += len(epochs)
        self._done_epochs += sum(epochs)
        restart(self._bar, self._task, self._done_epochs, done=self._done)
        if epochs:
            self.note(f"{self._done} of {self.runs} runs are finished already")

    def note(self, text: str) -> None:
        """Printed as it is, however long."""
        self.console.out(text, highlight=False)

    def running(self, epochs: Mapping[Cell, int]) -> None:
        """What runs now, and how many epochs each has done."""
        now = f"{len(epochs)} running"
        self._bar.update(self._task, completed=self._done_epochs + sum(epochs.values()), done=self._done, now=now)

    def finished(self, cell: Cell, epochs: int) -> None:
        self._done += 1
        self._done_epochs += epochs
        self.note(f"run {self._done:>3}/{self.runs}  {cell.name}")
