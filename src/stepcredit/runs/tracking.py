"""All trackers of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from numbers import Real
from pathlib import Path
from traceback import format_exception
from typing import Any

from stepcredit.config import TrainConfig
from stepcredit.errors import shortened
from stepcredit.runs.trackers import TRACKERS, Tracker
from stepcredit.utils.error_log import log_traceback, with_log
from stepcredit.utils.global_state import settings_restored

_GROUPS = {"reward_components": "reward", "reward_by_tag": "reward_by_tag"}
"""Prefix of the names of what is nested in a row of metrics.jsonl."""


class TrackerGroup:
    """Passes metrics and images on to the trackers of a run. A tracker that raises is dropped with a note.

    Settings that a tracker changes are restored, see `settings_restored`.

    Args:
        names: see `run.trackers`.
        note: called with one line for each tracker that is dropped.
        plugins: loaded if a name is not registered.

    Raises:
        InputError: there is no tracker of that name.
    """

    def __init__(self, names: Iterable[str], note: Callable[[str], None], plugins: Iterable[str] = ()) -> None:
        plugins = list(plugins)
        self._factories = {name: TRACKERS.get(name, plugins) for name in names}
        self._note = note
        self._trackers: dict[str, Tracker] = {}
        self._run: Path | None = None
        self._warned: set[str] = set()

    @contextmanager
    def running(self, run: Path, config: TrainConfig, finished_epochs: int) -> Iterator[None]:
        """Build the trackers, and close them at the end of the block. Outside of it nothing is logged."""
        self._run = run
        for name, factory in self._factories.items():
            with self._dropped_on_error(name):
                self._trackers[name] = factory(run, config.model_dump(mode="json"), finished_epochs)
        try:
            yield
        finally:
            for name in list(self._trackers):
                tracker = self._trackers.pop(name)
                with self._dropped_on_error(name):
                    tracker.close()

    def log_metrics(self, row: Mapping[str, Any]) -> None:
        """Log a row of metrics.jsonl."""
        epoch, numbers = int(row["epoch"]), numbers_of(row)
        self._for_each(lambda tracker: tracker.log_metrics(epoch, dict(numbers)))

    def log_images(self, epoch: int, path: Path) -> None:
        """Log a sample grid, the PNG file `path`."""
        self._for_each(lambda tracker: tracker.log_images(epoch, path))

    def _for_each(self, action: Callable[[Tracker], None]) -> None:
        for name, tracker in list(self._trackers.items()):
            with self._dropped_on_error(name):
                action(tracker)

    @contextmanager
    def _dropped_on_error(self, name: str) -> Iterator[None]:
        try:
            with settings_restored(f"tracker '{name}'", self._warned):
                yield
        except (Exception, SystemExit) as error:  # a tracker may raise anything, and none is worth a run
            tracker = self._trackers.pop(name, None)
            reason = (isinstance(error, OSError) and error.strerror) or f"{type(error).__name__}: {error}"
            message = f"tracker '{name}' failed ({shortened(reason)}): the run continues without it"
            log = log_traceback(message, "".join(format_exception(error)), self._run)
            self._note(with_log(message, log))
            if tracker is not None:
                with suppress(Exception, SystemExit):
                    tracker.close()


def numbers_of(row: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a row of metrics.jsonl by name, without `epoch`. Components and tags of a reward are flattened."""
    nested = {
        f"{group}/{name}_{key}": value
        for column, group in _GROUPS.items()
        for name, statistics in row.get(column, {}).items()
        for key, value in statistics.items()
    }
    return {
        key: float(value)
        for key, value in {**row, **nested}.items()
        if key != "epoch" and isinstance(value, Real) and not isinstance(value, bool)
    }
