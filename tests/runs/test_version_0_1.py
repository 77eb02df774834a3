"""Run directories of version 0.1 can be sampled, exported, reported and resumed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file
from tests.cli.command_line import rows, stepcredit

DATA = Path(__file__).parents[1] / "data"
WEIGHTS = "pytorch_lora_weights.safetensors"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return Path(shutil.copytree(DATA / "run_0_1", tmp_path / "run"))


def test_resuming_gives_the_metrics_that_version_0_1_gave(run: Path) -> None:
    result = stepcredit("train", "--resume", "--run", run, "train.epochs=3")
    assert (result.code, result.err) == (0, "")
    expected = json.loads((DATA / "run_0_1_resumed.json").read_text())
    resumed = rows(run)
    assert len(resumed) == 3 and resumed[0] == expected[0]
    for ours, theirs in zip(resumed, expected, strict=True):
        for name, value in theirs.items():  # equal bit for bit with the same processor and packages
            assert ours[name] == pytest.approx(value, rel=1e-3, abs=1e-6), name
    assert (run / "report.html").exists()


def test_sample(run: Path, tmp_path: Path) -> None:
    result = stepcredit("sample", run, "--prompt", "a blue circle", "--out", tmp_path / "out")
    assert (result.code, result.err) == (0, "")
    assert len(list((tmp_path / "out").glob("*.png"))) == 1


def test_export(run: Path, tmp_path: Path) -> None:
    result = stepcredit("export", run, "--format", "diffusers", "--out", tmp_path / "out")
    assert (result.code, result.err) == (0, "")
    exported, trained = (load_file(folder / WEIGHTS) for folder in (tmp_path / "out", run / "lora"))
    assert exported.keys() == trained.keys()
    assert all(value.equal(trained[name]) for name, value in exported.items())


def test_report(run: Path) -> None:
    assert stepcredit("report", run).code == 0
    assert "jpeg_compressibility" in (run / "report.html").read_text(encoding="utf-8")
