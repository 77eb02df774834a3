"""The files of a run directory, and which folders are accepted for a new run."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from stepcredit.config import TrainConfig
from stepcredit.errors import InputError
from stepcredit.runs.directory import RunDirectory, config_differences, next_run_path

COMMAND = ["stepcredit", "train", "train.epochs=2"]


def config(**train: float) -> TrainConfig:
    return TrainConfig.model_validate({"train": train})


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return RunDirectory.create(tmp_path / "runs" / "a", config(), COMMAND)


def test_config_is_read_back_as_written(run: RunDirectory) -> None:
    assert RunDirectory.open(run.path).config == config()


def test_environment_holds_versions_and_the_command_and_no_variables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    run = RunDirectory.create(tmp_path / "a", config(), COMMAND)
    text = run.environment_path.read_text()
    facts = json.loads(text)
    assert facts["command"] == COMMAND
    assert facts["packages"]["numpy"] == np.__version__
    assert facts["python"] == sys.version.split()[0]
    assert facts["torch_threads"] >= 1
    assert "hf_secret" not in text


def test_the_commit_is_that_of_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    who = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    for command in (["init", "-q"], [*who, "commit", "-q", "--no-verify", "--allow-empty", "-m", "x"]):
        subprocess.run(["git", *command], check=True)
    commit = subprocess.run(["git", "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    run = RunDirectory.create(tmp_path / "a", config(), COMMAND)
    assert json.loads(run.environment_path.read_text())["git_commit"] == commit


def test_outside_a_repository_there_is_no_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    run = RunDirectory.create(tmp_path / "a", config(), COMMAND)
    assert json.loads(run.environment_path.read_text())["git_commit"] is None


def test_an_empty_folder_can_be_used(tmp_path: Path) -> None:
    assert RunDirectory.create(tmp_path, config(), COMMAND).config == config()


def test_a_second_run_of_the_same_configuration_is_refused(run: RunDirectory) -> None:
    with pytest.raises(InputError, match=r"already holds a run.*--resume.*--run"):
        RunDirectory.create(run.path, config(), COMMAND)


def test_a_run_with_another_configuration_is_refused_naming_the_keys(run: RunDirectory) -> None:
    before = run.config_path.read_bytes()
    other = config(learning_rate=0.02, epochs=3, clip_range=0.5, weight_decay=0.0)
    with pytest.raises(InputError) as caught:
        RunDirectory.create(run.path, other, COMMAND)
    assert "train.epochs: 10 there, 3 here; train.learning_rate: 0.012 there, 0.02 here" in str(caught.value)
    assert "and 1 more" in str(caught.value)
    assert run.config_path.read_bytes() == before


def test_a_folder_of_something_else_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="not empty"):
        RunDirectory.create(tmp_path, config(), COMMAND)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_only_one_of_two_runs_started_at_once_succeeds(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stepcredit.runs.directory._refuse_occupied", lambda *_: None)
    with pytest.raises(InputError, match="already holds a run"):
        RunDirectory.create(run.path, config(epochs=3), COMMAND)
    assert run.config == config()


def test_paths_that_cannot_be_folders_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(InputError, match="is a file"):
        RunDirectory.create(file, config(), COMMAND)
    with pytest.raises(InputError, match=r"cannot write the run directory .*Not a directory"):
        RunDirectory.create(file / "below", config(), COMMAND)


def test_open_needs_a_run(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing"):
        with pytest.raises(InputError, match="not a run directory"):
            RunDirectory.open(path)


def test_numbers_that_are_not_finite_are_null(run: RunDirectory) -> None:
    row = {
        "epoch": 1,
        "loss": np.float32(0.5),
        "queries": np.int64(64),
        "grad_norm": math.nan,
        "kl": -math.inf,
        "ok": True,
    }
    run.append_metrics(row)
    assert run.metrics_path.read_text().endswith("}\n")
    assert run.metrics() == [{"epoch": 1, "loss": 0.5, "queries": 64, "grad_norm": None, "kl": None, "ok": True}]


def test_an_incomplete_last_line_is_ignored_and_replaced(run: RunDirectory) -> None:
    for epoch in (1, 2):
        run.append_metrics({"epoch": epoch})
    with run.metrics_path.open("ab") as file:
        file.truncate(run.metrics_path.stat().st_size - 3)
    assert run.metrics() == [{"epoch": 1}]
    run.append_metrics({"epoch": 2})
    assert run.metrics() == [{"epoch": 1}, {"epoch": 2}]


def test_a_row_that_cannot_be_written_leaves_the_file_unchanged(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.append_metrics({"epoch": 1})
    before = run.metrics_path.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("os.fsync", full)
        with pytest.raises(OSError, match="No space left"):
            run.append_metrics({"epoch": 2})
    assert run.metrics_path.read_bytes() == before
    run.append_metrics({"epoch": 2})
    assert [row["epoch"] for row in run.metrics()] == [1, 2]


def test_a_run_directory_that_cannot_be_written_is_not_created(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(InputError, match=r"cannot write the run directory .*: No space left on device"):
        RunDirectory.create(tmp_path / "run", TrainConfig(), ["stepcredit"])
    assert list(tmp_path.iterdir()) == []


def test_a_last_line_without_a_newline_is_kept(run: RunDirectory) -> None:
    run.metrics_path.write_text('{"epoch": 1}')
    run.append_metrics({"epoch": 2})
    assert run.metrics() == [{"epoch": 1}, {"epoch": 2}]


@pytest.mark.parametrize("line", ["{torn", "3"])
def test_another_unreadable_line_is_an_error_with_its_number(run: RunDirectory, line: str) -> None:
    run.metrics_path.write_text(f'{{"epoch": 1}}\n{line}\n{{"epoch": 3}}\n')
    with pytest.raises(InputError, match=r"metrics.jsonl line 2 is not a JSON object"):
        run.metrics()


def test_statistics_of_reward_components_are_nested(run: RunDirectory) -> None:
    statistics = {"warmth": {"mean": np.float32(0.5), "std": 0.5}, "ocr": {"mean": math.nan, "std": 0.0}}
    run.append_metrics({"epoch": 2, "reward_components": statistics})
    expected = {"warmth": {"mean": 0.5, "std": 0.5}, "ocr": {"mean": None, "std": 0.0}}
    assert run.metrics() == [{"epoch": 2, "reward_components": expected}]


def test_resuming_records_each_epoch_once(run: RunDirectory) -> None:
    for epoch in (1, 2, 3):
        run.append_metrics({"epoch": epoch, "reward_mean": 1.0})
    resumed = RunDirectory.open(run.path)
    resumed.truncate_metrics(1)
    assert resumed.metrics() == [{"epoch": 1, "reward_mean": 1.0}]
    resumed.append_metrics({"epoch": 2, "reward_mean": 2.0})
    assert [row["epoch"] for row in resumed.metrics()] == [1, 2]
    assert sorted(path.name for path in run.path.iterdir()) == ["config.yaml", "environment.json", "metrics.jsonl"]


def test_truncating_a_run_without_metrics_is_harmless(run: RunDirectory) -> None:
    run.truncate_metrics(0)
    assert run.metrics() == []


def test_next_run_path_takes_the_first_free_number(tmp_path: Path) -> None:
    assert next_run_path(tmp_path / "runs", "a") == tmp_path / "runs" / "a-001"
    for number in (1, 2, 4):
        (tmp_path / f"a-00{number}").mkdir()
    assert next_run_path(tmp_path, "a") == tmp_path / "a-003"


def test_differences_name_keys_of_either_side() -> None:
    there = {"reward": {"name": "jpeg", "options": {}}, "old": {"key": 1}}
    here = {"reward": {"name": "jpeg", "options": {"quality": 95}}}
    assert config_differences(there, here) == [
        "reward.options.quality: absent there, 95 here",
        "old.key: 1 there, absent here",
    ]
