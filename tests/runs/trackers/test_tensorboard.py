"""What TensorBoard reads back."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]

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
