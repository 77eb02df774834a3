"""The run on the terminal: a line per epoch, and a live bar where there is a terminal to draw it on."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class ConsoleProgress:
    """Context manager that shows epochs done, phase, reward, rate and time left."""

    def __init__(self, epochs: int, console: Console | None = None) -> None:
        self.console = console or Console()
        self.epochs = epochs
        self._bar = Progress(
            TextColumn("epoch {task.fields[epoch]}/{task.fields[epochs]}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[phase]:<12}"),
            TextColumn("{task.fields[reward]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self.console,
            disable=not self.console.is_terminal,
            transient=True,
        )
        self._finished = 0
        self._task = self._bar.add_task("", total=epochs, epoch=0, epochs=epochs, phase="loading", reward="")

    def start(self, finished: int) -> None:
        """Begin to count, `finished` epochs being done already."""
        self._finished = finished
        self._bar.reset(self._task, completed=finished, epoch=finished)

    def __enter__(self) -> ConsoleProgress:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def note(self, text: str) -> None:
        self.console.print(text, highlight=False, markup=False)

    def phase(self, name: str) -> None:
        self._bar.update(self._task, phase=name)

    def tick(self, done: int, total: int) -> None:
        """Training is taken for the last half of an epoch."""
        self._bar.update(self._task, completed=self._finished + 0.5 + 0.5 * done / total)

    def epoch(self, metrics: dict[str, float]) -> None:
        self._finished = int(metrics["epoch"])
        seconds = sum(value for name, value in metrics.items() if name.startswith("seconds_"))
        reward = f"reward {metrics['reward_mean']:.3f}"
        self._bar.update(self._task, completed=self._finished, epoch=self._finished, reward=reward)
        self.note(
            f"epoch {self._finished:>3}/{self.epochs}  {reward} ± {metrics['reward_std']:.3f}  "
            f"queries {int(metrics['reward_queries'])}  clipped {metrics['clip_fraction']:.0%}  {seconds:.1f} s"
        )
