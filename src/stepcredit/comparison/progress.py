"""Report the progress of a comparison: silently by default, or on a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType

from rich.console import Console

from stepcredit.runs.progress import live_bar, restart


class Progress:
    """Receives the events of a comparison and ignores them. Override what you need. A context manager."""

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        return

    def start(self, runs: int, epochs: int) -> None:
        """The comparison consists of `runs` runs and evaluations, with `epochs` epochs in total."""

    def note(self, text: str) -> None:
        """Something happened that is worth a line."""

    def already_finished(self, epochs: Sequence[int]) -> None:
        """These runs, given by their numbers of epochs, were finished before."""

    def running(self, epochs: Mapping[str, int]) -> None:
        """These runs, by name, are running and have finished so many epochs."""

    def finished(self, name: str, epochs: int) -> None:
        """A run finished all its epochs."""


class ConsoleProgress(Progress):
    """Prints a line for each finished run and, on a terminal, a live bar. Uses stderr: stdout is for the results."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        self._runs = 0
        self._done = 0
        self._done_epochs = 0
        self._bar = live_bar(
            self._console,
            "runs {task.fields[done]}/{task.fields[runs]}",
            "epochs {task.completed:.0f}/{task.total:.0f}",
            "{task.fields[now]}",
        )
        self._task = self._bar.add_task("", total=0, done=0, runs=0, now="")

    def __enter__(self) -> ConsoleProgress:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        self._bar.stop()

    def start(self, runs: int, epochs: int) -> None:
        self._runs = runs
        self._bar.update(self._task, total=epochs, runs=runs)

    def note(self, text: str) -> None:
        self._console.out(text, highlight=False)  # does not wrap long lines

    def already_finished(self, epochs: Sequence[int]) -> None:
        """The remaining time is estimated without these runs."""
        self._done += len(epochs)
        self._done_epochs += sum(epochs)
        restart(self._bar, self._task, self._done_epochs, done=self._done)
        if epochs:
            self.note(f"{self._done} of {self._runs} runs were finished before")

    def running(self, epochs: Mapping[str, int]) -> None:
        now = f"{len(epochs)} running"
        self._bar.update(self._task, completed=self._done_epochs + sum(epochs.values()), done=self._done, now=now)

    def finished(self, name: str, epochs: int) -> None:
        self._done += 1
        self._done_epochs += epochs
        self.note(f"run {self._done:>3}/{self._runs}  {name}")
