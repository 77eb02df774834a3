"""All trackers of a run: which one fails does not matter to the others or to the run."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.toy_policy import toy_config

from stepcredit.errors import InputError
from stepcredit.runs.trackers import TRACKERS
from stepcredit.runs.tracking import TrackerGroup, numbers_of

CALLS: list[tuple[Any, ...]] = []
ROW = {
    "epoch": 2,
    "reward_mean": 0.5,
    "name": "x",
    "ok": True,
    "reward_components": {"warmth": {"mean": 1, "std": 2}},
    "reward_by_tag": {"two objects": {"mean": 0.25, "images": 3}},
}
NUMBERS = {
    "reward_mean": 0.5,
    "reward/warmth_mean": 1.0,
    "reward/warmth_std": 2.0,
    "reward_by_tag/two objects_mean": 0.25,
    "reward_by_tag/two objects_images": 3.0,
}


class ListTracker:
    def __init__(self, run: Path, config: Mapping[str, Any], finished_epochs: int) -> None:
        CALLS.append(("start", run, config["run"]["seed"], finished_epochs))

    def log_metrics(self, epoch: int, metrics: Mapping[str, float]) -> None:
        CALLS.append(("metrics", epoch, dict(metrics)))

    def log_images(self, epoch: int, path: Path) -> None:
        CALLS.append(("images", epoch, path))

    def close(self) -> None:
        CALLS.append(("close",))


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    monkeypatch.setattr(f"{__name__}.CALLS", [])
    monkeypatch.setitem(TRACKERS._parts, "listing", ListTracker)
    return CALLS


def test_a_tracker_gets_metrics_images_and_an_end(calls: list[tuple[Any, ...]], tmp_path: Path) -> None:
    group = TrackerGroup(["listing"], pytest.fail)
    group.log_metrics(ROW)  # not running yet
    with group.running(tmp_path, toy_config(), 1):
        group.log_metrics(ROW)
        group.log_images(2, tmp_path)
    assert calls == [("start", tmp_path, 0, 1), ("metrics", 2, NUMBERS), ("images", 2, tmp_path), ("close",)]


@pytest.mark.parametrize("method", ["__init__", "log_metrics", "log_images", "close"])
def test_a_failing_tracker_is_dropped_with_one_note(
    method: str, calls: list[tuple[Any, ...]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken(ListTracker):
        pass

    def fail(*_: Any) -> None:
        raise ValueError("no connection")

    monkeypatch.setattr(Broken, method, fail)
    monkeypatch.setitem(TRACKERS._parts, "broken", Broken)
    notes: list[str] = []
    group = TrackerGroup(["broken", "listing"], notes.append)
    with group.running(tmp_path, toy_config(), 0):
        for _ in range(2):
            group.log_metrics(ROW)
            group.log_images(2, tmp_path)
    assert len(notes) == 1 and "broken" in notes[0] and "no connection" in notes[0]
    assert notes[0].endswith(f" (traceback: {tmp_path / 'stepcredit.log'})")
    assert "ValueError: no connection" in (tmp_path / "stepcredit.log").read_text()
    assert calls[-1] == ("close",), "of the other tracker"


def test_a_tracker_changes_nothing_outside_and_cannot_end_the_run(
    calls: list[tuple[Any, ...]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Careless(ListTracker):
        def __init__(self, run: Path, config: Any, finished_epochs: int) -> None:
            config.clear()

        def log_metrics(self, epoch: int, metrics: Any) -> None:
            metrics.clear()
            torch.set_grad_enabled(False)
            sys.exit(3)

    monkeypatch.setitem(TRACKERS._parts, "careless", Careless)
    notes: list[str] = []
    group = TrackerGroup(["careless", "listing"], notes.append)
    with group.running(tmp_path, toy_config(), 0):
        group.log_metrics(ROW)
    assert torch.is_grad_enabled() and "SystemExit: 3" in notes[0] and len(notes) == 1
    assert calls[-2][2]["reward_mean"] == 0.5


def test_an_unknown_tracker_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(InputError, match=r"'tensorbord'.*'tensorboard'"):
        TrackerGroup(["tensorbord"], print)


def test_a_tracker_can_be_a_class_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "class Mine:\n"
        "    def __init__(self, run, config, finished_epochs): self.file = run / 'log.txt'\n"
        "    def log_metrics(self, epoch, metrics): self.file.write_text(f'{epoch} {metrics}')\n"
        "    def log_images(self, epoch, path): pass\n"
        "    def close(self): pass\n"
    )
    group = TrackerGroup([f"{tmp_path / 'mine.py'}:Mine"], pytest.fail)
    with group.running(tmp_path, toy_config(), 0):
        group.log_metrics({"epoch": 1, "loss": 2})
    assert (tmp_path / "log.txt").read_text() == "1 {'loss': 2.0}"


def test_values_that_are_not_finite_are_passed_on() -> None:
    assert math.isnan(numbers_of({"epoch": 1, "loss": math.nan})["loss"])
