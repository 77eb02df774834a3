"""Numbers for TensorBoard, read back by TensorBoard; its failures are words and not errors."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]

from stepcredit.runs.tensorboard import Scalars


def read(folder: Path, tag: str) -> list[tuple[int, float]]:
    events = EventAccumulator(str(folder))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(tag)]


def test_numbers_come_back(tmp_path: Path) -> None:
    writer = Scalars(tmp_path / "new")
    assert not (tmp_path / "new").exists()
    for step in (1, 2):
        assert writer.write(step, {"a": 0.5 * step, "b": math.inf}) is None
    assert read(tmp_path / "new", "a") == [(1, 0.5), (2, 1.0)], "readable before it is closed"
    assert read(tmp_path / "new", "b") == [(1, math.inf), (2, math.inf)]


def test_a_second_writer_takes_back_what_the_first_wrote_later(tmp_path: Path) -> None:
    """In one second, too: readers take files in the order of their names."""
    for step in range(1, 12):
        writer = Scalars(tmp_path, purge_from=step)
        writer.write(step, {"a": step})
        writer.write(step + 1, {"a": -1})
    assert read(tmp_path, "a") == [*((step, step) for step in range(1, 12)), (12, -1)]


def test_the_first_failure_is_told_and_nothing_more_is_tried(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    writer = Scalars(tmp_path / "file")
    told = writer.write(1, {"a": 1.0})
    assert (
        told == f"TensorBoard's file in {tmp_path / 'file'} cannot be written (File exists); the run goes on without it"
    )
    assert writer.write(2, {"a": 1.0}) is None


def test_it_needs_no_tensorboard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "tensorboard.compat.proto.event_pb2", None)
    told = Scalars(tmp_path).write(1, {"a": 1.0})
    assert told is not None and "the run goes on without it" in told


def test_names_of_other_files_do_no_harm(tmp_path: Path) -> None:
    (tmp_path / "events.out.tfevents.x.y.z").touch()
    assert Scalars(tmp_path).write(1, {"a": 1.0}) is None
    assert len(list(tmp_path.iterdir())) == 2
