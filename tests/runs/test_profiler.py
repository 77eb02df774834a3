"""`run.profile`: a trace and a table of one epoch, and nothing else of the run is changed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.cli.command_line import TINY, stepcredit
from tests.toy_policy import toy_config
from tests.training.test_trainer import Failing, Notebook, finish, raising, rows, start

from stepcredit.errors import RewardError
from stepcredit.runs.profiler import profiled, profiled_epoch
from stepcredit.runs.progress import Progress


def ranges(folder: Path) -> list[str]:
    """Names of what the trace marks as phases."""
    events = json.loads((folder / "trace.json").read_text())["traceEvents"]
    return [event["name"] for event in events if event.get("cat") == "user_annotation"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Notebook]:
    """A profiled run of the toy policy: three epochs of two updates."""
    notebook = Notebook()
    config = toy_config(run={"profile": True})
    return finish(start(tmp_path_factory.mktemp("profiled"), config, progress=notebook)), notebook


def test_the_second_epoch_is_profiled_if_there_is_one() -> None:
    assert [profiled_epoch(0, 3), profiled_epoch(0, 1), profiled_epoch(4, 9), profiled_epoch(8, 9)] == [1, 0, 5, 8]


def test_one_epoch_is_profiled_after_one_that_warms_up(run: tuple[Any, Notebook]) -> None:
    phases = run[1].phases
    assert phases.count("profile") == 1
    assert phases[: phases.index("profile")].count("sampling") == 2


def test_the_trace_reaches_from_sampling_to_the_first_of_two_updates(run: tuple[Any, Notebook]) -> None:
    found = ranges(run[0].profile_dir)
    assert [found.count(name) for name in ("sampling", "training", "Optimizer.step#AdamW.step")] == [1, 1, 1]


def test_the_table_says_where_the_time_went(run: tuple[Any, Notebook]) -> None:
    text = (run[0].profile_dir / "table.txt").read_text()
    phases = [line.split() for line in text.splitlines() if line.startswith(("sampling ", "training "))]
    assert {name for name, _, _ in phases} == {"sampling", "training"}
    assert all(0 < float(seconds) < 60 and times == "1" for _, seconds, times in phases)
    assert "aten::mul" in text and "Self CPU" in text


def test_the_run_says_where_its_profile_is(run: tuple[Any, Notebook]) -> None:
    (note,) = [note for note in run[1].notes if note.startswith("profile: ")]
    assert str(run[0].profile_dir / "table.txt") in note and str(run[0].profile_dir / "trace.json") in note


def test_a_profiled_run_trains_as_any_other_which_writes_no_profile(run: tuple[Any, Notebook], tmp_path: Path) -> None:
    plain = finish(start(tmp_path, toy_config()))
    assert rows(plain) == rows(run[0])
    assert not plain.profile_dir.exists()


def test_nothing_is_written_of_an_epoch_that_fails_and_the_next_can_be_profiled(tmp_path: Path) -> None:
    config = toy_config(train={"epochs": 1}, run={"profile": True})
    with pytest.raises(RewardError):
        finish(start(tmp_path / "failing", config, reward=Failing(raising, 2)))
    assert not (tmp_path / "failing" / "profile").exists()
    assert ranges(finish(start(tmp_path / "whole", config)).profile_dir).count("sampling") == 1


def test_without_an_update_everything_is_profiled(tmp_path: Path) -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)])
    with profiled(tmp_path, optimizer, Progress()):
        torch.randn(8).cumsum(0)
    assert "aten::cumsum" in (tmp_path / "table.txt").read_text()
    optimizer.step()  # its hook is gone: this must not stop a profiler that was stopped


@pytest.mark.slow
def test_the_embedded_pipeline_is_profiled_from_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    small = ["sample.prompts_per_epoch=1", "sample.steps=2", "train.epochs=1", "train.updates_per_epoch=1"]
    said = stepcredit("train", *TINY, *small, "run.profile=true", "--run", "a")
    assert (said.code, said.err) == (0, "")
    assert {path.name for path in (tmp_path / "a" / "profile").iterdir()} == {"trace.json", "table.txt"}
    assert "convolution" in (tmp_path / "a" / "profile" / "table.txt").read_text()
