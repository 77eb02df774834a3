"""Code of the user's runs only where a recipe names it and a command needs it."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.cli.command_line import TOY, stepcredit

from stepcredit.config import TrainConfig
from stepcredit.credit import CREDIT
from stepcredit.report import write_report
from stepcredit.rewards import REWARDS, build_reward
from stepcredit.runs.directory import RunDirectory

CODE = """
from pathlib import Path
(Path(__file__).parent / "ran").touch()
def score(images, prompts, metadata):
    return images.mean((1, 2, 3))
"""


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a reward file and modules that are called like parts of ours, all of which would leave a mark."""
    monkeypatch.chdir(tmp_path)
    for name in ("mine.py", "warmth.py", "uniform.py", "stepcredit_plugin.py", "sitecustomize.py", "conftest_.py"):
        (tmp_path / name).write_text(CODE)
    return tmp_path


def config() -> TrainConfig:
    return TrainConfig.model_validate({"reward": {"name": "mine.py:score"}})


def test_a_named_file_is_run_when_the_reward_is_built(plugin: Path) -> None:
    build_reward(config().reward)
    assert (plugin / "ran").exists()


def test_reading_a_run_and_writing_its_report_run_nothing(plugin: Path) -> None:
    run = RunDirectory.create(plugin / "run", config(), ["stepcredit"])
    assert run.config.reward.name == "mine.py:score"
    write_report(run.path)
    assert not (plugin / "ran").exists()


def test_files_that_lie_about_are_not_looked_for(plugin: Path) -> None:
    assert "warmth" in REWARDS.names() and "uniform" in CREDIT.names()
    build_reward(TrainConfig.model_validate({"reward": {"name": "warmth"}}).reward)
    assert not (plugin / "ran").exists()


@pytest.mark.usefixtures("toy")
def test_sampling_from_a_run_does_not_run_its_reward(here: Path) -> None:
    Path("mine.py").write_text(CODE)
    assert stepcredit("train", *TOY, "reward.name=mine.py:score", "--run", "run").code == 0
    Path("ran").unlink()
    assert stepcredit("sample", "run", "--prompt", "a lake", "--out", "out").code == 0
    assert not Path("ran").exists()
