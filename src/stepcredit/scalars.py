"""Numbers for TensorBoard. What goes wrong there never stops a run."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any


class Scalars:
    """One TensorBoard event file in `folder`, begun with the first numbers.

    Written in the calling thread: an error is ours to tell, and no thread stands in the way of a signal.

    Args:
        purge_from: steps from here on are forgotten, for a run that goes on from there.
    """

    def __init__(self, folder: Path, purge_from: int | None = None) -> None:
        self._folder = folder
        self._purge_from = purge_from
        self._records: Any = None
        self._failed = False

    def write(self, step: int, numbers: Mapping[str, float]) -> str | None:
        """Add numbers, on disk when this returns. The first failure is returned in words; nothing is tried after it."""
        if self._failed:
            return None
        try:
            self._write(step, numbers)
        except Exception as error:
            self._failed = True
            self.close()
            reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            return f"TensorBoard's file in {self._folder} cannot be written ({reason}); the run goes on without it"
        return None

    def close(self) -> None:
        """End the file."""
        if self._records is not None:
            with suppress(Exception):
                self._records.close()
            self._records = None

    def _write(self, step: int, numbers: Mapping[str, float]) -> None:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog  # type: ignore[import-untyped]
        from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-untyped]

        if self._records is None:
            self._records = _begun(self._folder)
            self._add(Event(file_version="brain.Event:2"))
            if self._purge_from is not None:
                self._add(Event(step=self._purge_from, session_log=SessionLog(status=SessionLog.START)))
        for tag, number in numbers.items():
            self._add(Event(step=step, summary=Summary(value=[Summary.Value(tag=tag, simple_value=number)])))
        self._records.flush()

    def _add(self, event: Any) -> None:
        event.wall_time = time.time()
        self._records.write(event.SerializeToString())


def _begun(folder: Path) -> Any:
    """A new file that is read after those that are there: readers sort by name."""
    from tensorboard.summary.writer.record_writer import RecordWriter  # type: ignore[import-untyped]

    folder.mkdir(parents=True, exist_ok=True)
    newest = max((path.name.split(".")[3] for path in folder.glob("events.out.tfevents.*")), default="0")
    second = max(int(time.time()), int(newest) + 1 if newest.isdecimal() else 0)
    name = f"events.out.tfevents.{second:010d}.{platform.node()}.{os.getpid()}"
    return RecordWriter((folder / name).open("xb"))
