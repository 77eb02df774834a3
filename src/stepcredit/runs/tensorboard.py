"""Numbers for TensorBoard. What goes wrong there never stops a run."""

from __future__ import annotations

import io
import os
import platform
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from stepcredit.utils.files import append_whole


class Scalars:
    """One TensorBoard event file in `folder`, begun with the first numbers. Between writes it is closed.

    Args:
        purge_from: steps from here on are forgotten, for a run that goes on from there.
    """

    def __init__(self, folder: Path, purge_from: int | None = None) -> None:
        self._folder = folder
        self._purge_from = purge_from
        self._path: Path | None = None
        self._failed = False

    def write(self, step: int, numbers: Mapping[str, float]) -> str | None:
        """Add numbers, on disk when this returns. The first failure is returned in words; nothing is tried after it."""
        if self._failed:
            return None
        try:
            self._write(step, numbers)
        except Exception as error:  # TensorBoard's writer fails in many ways, and no plot is worth a run
            self._failed = True
            reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            return f"TensorBoard's file in {self._folder} cannot be written ({reason}); the run goes on without it"
        return None

    def _write(self, step: int, numbers: Mapping[str, float]) -> None:
        begun = self._path is not None
        records = _records([*([] if begun else _opening(self._purge_from)), *_events(step, numbers)])
        if self._path is None:
            self._path = _new_path(self._folder)
        append_whole(self._path, records)


def _opening(purge_from: int | None) -> Iterator[Any]:
    from tensorboard.compat.proto.event_pb2 import Event, SessionLog  # type: ignore[import-untyped]

    yield Event(file_version="brain.Event:2")
    if purge_from is not None:
        yield Event(step=purge_from, session_log=SessionLog(status=SessionLog.START))


def _events(step: int, numbers: Mapping[str, float]) -> Iterator[Any]:
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-untyped]

    for tag, number in numbers.items():
        yield Event(step=step, summary=Summary(value=[Summary.Value(tag=tag, simple_value=number)]))


def _records(events: list[Any]) -> bytes:
    """Events of now, as they stand in the file."""
    from tensorboard.summary.writer.record_writer import RecordWriter  # type: ignore[import-untyped]

    content = io.BytesIO()
    for event in events:
        event.wall_time = time.time()
        RecordWriter(content).write(event.SerializeToString())
    return content.getvalue()


def _new_path(folder: Path) -> Path:
    """A file that is read after those that are there: readers sort by name."""
    folder.mkdir(parents=True, exist_ok=True)
    seconds = [path.name.split(".")[3] for path in folder.glob("events.out.tfevents.*")]
    second = max([int(time.time()), *(int(there) + 1 for there in seconds if there.isdecimal())])
    return folder / f"events.out.tfevents.{second:010d}.{platform.node()}.{os.getpid()}"
