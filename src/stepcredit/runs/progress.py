"""Where a run tells how it goes: to nobody, or to the terminal."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from rich import progress
from rich.console import Console

from stepcredit.runs.timing import epoch_seconds

_NO_FORMATS: Mapping[str, str] = {}


def live_bar(console: Console, head: str, *columns: str) -> progress.Progress:
    """A bar after `head` and before the other columns and the time; only on a terminal, and gone at the end."""
    return progress.Progress(
        progress.TextColumn(head),
        progress.BarColumn(bar_width=24),
        *map(progress.TextColumn, columns),
        progress.TimeElapsedColumn(),
        progress.TextColumn("left"),
        progress.TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
        transient=True,
    )


def restart(bar: progress.Progress, task: progress.TaskID, completed: int, **changed: Any) -> None:
    """Count from `completed` on, so that the time left is reckoned from here."""
    bar.reset(task, completed=completed, **{**bar.tasks[0].fields, **changed})  # reset drops what it is not given


class Progress:
    """What a run tells while it goes on. This one keeps it to itself."""

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        return

    def start(self, finished: int) -> None:
        """Begin to count, `finished` epochs being done already."""

    def note(self, text: str) -> None:
        """Something worth a line."""

    def phase(self, name: str) -> None:
        """What is being done from now on."""

    def tick(self, done: int, total: int) -> None:
        """`done` of `total` updates of the epoch are done."""

    def epoch(self, metrics: Mapping[str, Any], formats: Mapping[str, str] = _NO_FORMATS) -> None:
        """An epoch is over.

        Args:
            metrics: its row of metrics.jsonl.
            formats: figures to show, with their format, see `Algorithm.console`.
        """


class ConsoleProgress(Progress):
    """A line per epoch, and on a terminal a live bar: epochs, phase, reward, rate, time. A context manager."""

    def __init__(self, epochs: int, console: Console | None = None) -> None:
        self.console = console or Console()
        self.epochs = epochs
        self._bar = live_bar(
            self.console,
            "epoch {task.fields[epoch]}/{task.fields[epochs]}",
            "{task.fields[phase]:<12}",
            "{task.fields[reward]}",
            "{task.fields[rate]}",
        )
        self._finished = 0
        self._task = self._bar.add_task("", total=epochs, epoch=0, epochs=epochs, phase="starting", reward="", rate="")

    def start(self, finished: int) -> None:
        self._finished = finished
        restart(self._bar, self._task, finished, epoch=finished)

    def __enter__(self) -> ConsoleProgress:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def note(self, text: str) -> None:
        """Printed as it is: a path or a command that is longer than the terminal is wide stays in one piece."""
        self.console.out(text, highlight=False)

    def phase(self, name: str) -> None:
        self._bar.update(self._task, phase=name)

    def tick(self, done: int, total: int) -> None:
        """Training is taken for the last half of an epoch."""
        self._bar.update(self._task, completed=self._finished + 0.5 + 0.5 * done / total)

    def epoch(self, metrics: Mapping[str, Any], formats: Mapping[str, str] = _NO_FORMATS) -> None:
        self._finished = int(metrics["epoch"])
        seconds = epoch_seconds(metrics)
        reward = f"reward {metrics['reward_mean']:.3f}"
        rate = f"{metrics['reward_queries'] / self._finished / seconds:.1f} images/s" if seconds else ""
        self._bar.update(self._task, completed=self._finished, epoch=self._finished, reward=reward, rate=rate)
        shown = [form.format(metrics[name]) for name, form in formats.items() if name in metrics]
        updated = "no update made" if math.isnan(metrics["loss"]) else "  ".join(shown)
        self.note(
            f"epoch {self._finished:>3}/{self.epochs}  {reward} ± {metrics['reward_std']:.3f}  "
            f"queries {int(metrics['reward_queries'])}  {updated}  {seconds:.1f} s"
        )


class LoggingProgress(Progress):
    """Sends the messages of a run to the logger `stepcredit`, at level INFO."""

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs

    def note(self, text: str) -> None:
        logging.getLogger("stepcredit").info(text)
