"""benchmarks/cross_rewards.py: its table, and which runs it measures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

RUNS = ("taste/uniform/lr-0.03/seed-1", "taste/uniform/lr-0.03/seed-2", "warmth/linear/lr-0.012/seed-1")


def figures(own: float) -> dict[str, dict[str, float]]:
    return {
        name: {"taste": own, "warmth": -own, "alignment": 0.0, "diversity": 0.5} for name in ("training", "held-out")
    }


def test_table_has_the_mean_over_seeds(module: Any) -> None:
    results = dict(zip(RUNS, map(figures, (1.0, 3.0, 2.0)), strict=True))
    rows = [line.strip("| ").split(" | ") for line in module("cross_rewards").table(results, "held-out").splitlines()]
    assert rows[2][:4] == ["taste", "uniform", "2", "**+2.00 ± 1.00**"]
    assert rows[3][:5] == ["warmth", "linear", "1", "+2.00", "**-2.00**"]


def test_finished_runs_are_measured_once(module: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    script = module("cross_rewards")
    for name in RUNS:
        (tmp_path / "runs/fresh" / name).mkdir(parents=True)
        (tmp_path / "runs/fresh" / name / "report.html").touch()  # written however a run ends
    for name in RUNS[:2]:
        (tmp_path / "runs/fresh" / name / "finished").touch()
    measured: list[str] = []

    def evaluate_run(run: Path, *_: Any) -> dict[str, dict[str, float]]:
        measured.append(str(run.relative_to(tmp_path / "runs/fresh")))
        return figures(1.0)

    monkeypatch.setattr(script, "evaluate_run", evaluate_run)
    assert list(script.measure_runs(tmp_path, ["taste", "warmth"], 2, 0)) == list(RUNS[:2])
    (tmp_path / "runs/fresh" / RUNS[2] / "finished").touch()
    assert list(script.measure_runs(tmp_path, ["taste", "warmth"], 2, 0)) == list(RUNS)
    assert measured == list(RUNS)
    script.measure_runs(tmp_path, ["taste", "warmth"], 2, 1)
    assert measured == [*RUNS, *RUNS], "another seed is measured again"


def test_results_of_evaluate(module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    estimate = {"mean": 0.25, "standard_error": 0.1}
    sides = {"rewards": {name: {"difference": estimate} for name in ("taste", "alignment", "mixture.taste")}}
    output = {"evaluations": [{"sets": [{"name": "training", "diversity": {"difference": estimate}, **sides}]}]}
    script = module("cross_rewards")

    def run(command: list[str], **_: Any) -> Any:
        assert command[-9:] == ["--reward", "taste", "--reward", "alignment", "--json", "--images", "2", "--seed", "7"]
        return type("Process", (), {"stdout": json.dumps(output)})

    monkeypatch.setattr(script.subprocess, "run", run)
    result = script.evaluate_run(Path("run"), ["taste"], 2, 7)
    assert result == {"training": {"taste": 0.25, "alignment": 0.25, "diversity": 0.25}}
