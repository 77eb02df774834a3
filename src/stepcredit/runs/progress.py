"""Progress of a run: not shown, on the console, or through `logging`."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from importlib.util import find_spec
from types import TracebackType
from typing import Any

from rich import progress
from rich.console import Console

from stepcredit.runs.timing import epoch_seconds

_NO_FORMATS: Mapping[str, str] = {}


def live_bar(console: Console, head: str, *columns: str) -> progress.Progress:
    """A progress bar: `head`, bar, `columns`, elapsed and remaining time. On terminals and in notebooks only."""
    return progress.Progress(
        progress.TextColumn(head),
        progress.BarColumn(bar_width=24),
        *map(progress.TextColumn, columns),
        progress.TimeElapsedColumn(),
        progress.TextColumn("left"),
        progress.TimeRemainingColumn(),
        console=console,
        disable=not (console.is_terminal or _shows_widgets(console)),
        transient=True,
    )


def _shows_widgets(console: Console) -> bool:
    """Whether this is a notebook in which rich can show a bar."""
    return console.is_jupyter and find_spec("ipywidgets") is not None


def restart(bar: progress.Progress, task: progress.TaskID, completed: int, **fields: Any) -> None:
    """Continue from `completed`. The remaining time is estimated from here on."""
    bar.reset(task, completed=completed, **{**bar.tasks[0].fields, **fields})  # reset drops fields


class Progress:
    """Receives the progress of a run. This base class ignores it."""

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        return

    def start(self, finished: int) -> None:
        """Training starts after `finished` epochs."""

    def note(self, text: str) -> None:
        """Show one line of text."""

    def warn(self, text: str) -> None:
        """Show one line that the user should act on."""
        self.note(text)

    def phase(self, name: str) -> None:
        """A phase of an epoch begins."""

    def tick(self, done: int, total: int) -> None:
        """`done` of the `total` updates of the epoch are finished."""

    def epoch(self, metrics: Mapping[str, Any], formats: Mapping[str, str] = _NO_FORMATS) -> None:
        """An epoch has finished.

        Args:
            metrics: its row of metrics.jsonl.
            formats: metrics to show, with their formats; see `Algorithm.console`.
        """


class ConsoleProgress(Progress):
    """Prints one line per epoch. On a terminal, a live bar also shows epoch, phase, reward, images/s and time."""

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
        """Print without wrapping, so that long paths and commands can be copied.

        Characters that the terminal cannot print are escaped.
        """
        encoding = self.console.encoding
        self.console.out(text.encode(encoding, "backslashreplace").decode(encoding), highlight=False)

    def phase(self, name: str) -> None:
        self._bar.update(self._task, phase=name)

    def tick(self, done: int, total: int) -> None:
        """The bar assumes that training takes the last half of an epoch."""
        self._bar.update(self._task, completed=self._finished + 0.5 + 0.5 * done / total)

    def epoch(self, metrics: Mapping[str, Any], formats: Mapping[str, str] = _NO_FORMATS) -> None:
        self._finished = int(metrics["epoch"])
        seconds = epoch_seconds(metrics)
        reward = f"reward {metrics['reward_mean']:.3f}"
        rate = f"{metrics['reward_queries'] / self._finished / seconds:.1f} images/s" if seconds else ""
        self._bar.update(self._task, completed=self._finished, epoch=self._finished, reward=reward, rate=rate)
        self.note(_epoch_line(metrics, formats, self.epochs))


class LoggingProgress(Progress):
    """Sends the messages of a run to the logger `stepcredit`: notes at level INFO, warnings at level WARNING."""

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs

    def note(self, text: str) -> None:
        logging.getLogger("stepcredit").info(text)

    def warn(self, text: str) -> None:
        logging.getLogger("stepcredit").warning(text)

    def epoch(self, metrics: Mapping[str, Any], formats: Mapping[str, str] = _NO_FORMATS) -> None:
        self.note(_epoch_line(metrics, formats, self.epochs))


def _epoch_line(metrics: Mapping[str, Any], formats: Mapping[str, str], epochs: int) -> str:
    shown = [form.format(metrics[name]) for name, form in formats.items() if name in metrics]
    updated = "no update made" if math.isnan(metrics["loss"]) else "  ".join(shown)
    return (
        f"epoch {int(metrics['epoch']):>3}/{epochs}  reward {metrics['reward_mean']:.3f} ± "
        f"{metrics['reward_std']:.3f}  queries {int(metrics['reward_queries'])}  {updated}  "
        f"{epoch_seconds(metrics):.1f} s"
    )
