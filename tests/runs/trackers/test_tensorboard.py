"""What TensorBoard reads back."""

from __future__ import annotations

import math
import threading
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]
from tensorboard.summary.writer.record_writer import RecordWriter  # type: ignore[import-untyped]

from stepcredit.runs.image_grid import save_grid
from stepcredit.runs.trackers.tensorboard import TensorBoardTracker


def read(run: Path) -> EventAccumulator:
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    return events


def scalars(run: Path, name: str) -> list[tuple[int, float]]:
    return [(event.step, event.value) for event in read(run).Scalars(name)]


def test_metrics_are_readable_before_the_run_ends(tmp_path: Path) -> None:
    tracker = TensorBoardTracker(tmp_path, {}, 0)
    for epoch in (1, 2):
        tracker.log_metrics(epoch, {"a": 0.5 * epoch, "b": math.inf})
    assert scalars(tmp_path, "a") == [(1, 0.5), (2, 1.0)]
    assert scalars(tmp_path, "b") == [(1, math.inf), (2, math.inf)]
    tracker.close()


def test_a_resumed_run_has_every_epoch_once(tmp_path: Path) -> None:
    first = TensorBoardTracker(tmp_path, {}, 0)
    for epoch in (1, 2, 3):
        first.log_metrics(epoch, {"a": epoch})
    first.close()
    resumed = TensorBoardTracker(tmp_path, {}, 1)
    for epoch in (2, 3):
        resumed.log_metrics(epoch, {"a": -epoch})
    resumed.close()
    assert scalars(tmp_path, "a") == [(1, 1), (2, -2), (3, -3)]


def test_sample_grids_are_images(tmp_path: Path) -> None:
    save_grid(tmp_path / "grid.png", torch.zeros(2, 3, 8, 8), ["a", "b"])
    tracker = TensorBoardTracker(tmp_path, {}, 0)
    tracker.log_images(5, tmp_path / "grid.png")
    tracker.close()
    (image,) = read(tmp_path).Images("samples")
    assert image.step == 5 and image.width > 8


@pytest.mark.parametrize("first_failing", [1, 3])
def test_errors_of_the_writer_thread_are_raised_and_not_printed(
    first_failing: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A full disk can fail the very first write, which opening the file makes, or any later one."""
    calls: list[bytes] = []
    hook = threading.excepthook

    def failing(self: RecordWriter, data: bytes) -> None:
        calls.append(data)
        if len(calls) >= first_failing:
            raise OSError(28, "No space left on device")

    def track() -> None:
        tracker = TensorBoardTracker(tmp_path, {}, 0)
        try:
            for epoch in range(1, 5):
                tracker.log_metrics(epoch, {"a": epoch})
        finally:
            tracker.close()

    monkeypatch.setattr(RecordWriter, "write", failing)
    with pytest.raises(OSError, match="No space left"):
        track()
    assert threading.excepthook is hook
    assert capsys.readouterr().err == ""
