"""benchmarks/cross_rewards.py: its tables, and what it measures of a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.test_benchmarks import module

__all__ = ["module"]
RUNS = ("taste/uniform/lr-0.03/seed-1", "taste/uniform/lr-0.03/seed-2", "warmth/linear/lr-0.012/seed-1")


def figures(own: float) -> dict[str, dict[str, float]]:
    return {
        name: {"taste": own, "warmth": -own, "alignment": 0.0, "diversity": 0.5} for name in ("training", "held-out")
    }


def test_a_row_for_every_reward_and_arm_with_the_spread_over_seeds(module: Any) -> None:
    found = dict(zip(RUNS, map(figures, (1.0, 3.0, 2.0)), strict=True))
    assert module("cross_rewards").table(found, "held-out").splitlines() == [
        "| trained on | arm | seeds | taste | warmth | alignment | diversity |",
        "|---|---|---|---|---|---|---|",
        "| taste | uniform | 2 | **+2.00 ± 1.00** | -2.00 ± 1.00 | +0.00 ± 0.00 | +0.50 ± 0.00 |",
        "| warmth | linear | 1 | +2.00 | **-2.00** | +0.00 | +0.50 |",
    ]


def test_finished_runs_are_measured_once(module: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    script = module("cross_rewards")
    for name in RUNS:
        (tmp_path / "runs/fresh" / name).mkdir(parents=True)
        (tmp_path / "runs/fresh" / name / "report.html").touch()  # a run leaves one however it ends
    for name in RUNS[:2]:
        (tmp_path / "runs/fresh" / name / "finished").touch()
    asked: list[str] = []

    def evaluated(run: Path, *_: Any) -> dict[str, dict[str, float]]:
        asked.append(str(run.relative_to(tmp_path / "runs/fresh")))
        return figures(1.0)

    monkeypatch.setattr(script, "evaluated", evaluated)
    assert list(script.measured(tmp_path, ["taste", "warmth"], 2, 0)) == list(RUNS[:2])
    (tmp_path / "runs/fresh" / RUNS[2] / "finished").touch()
    assert list(script.measured(tmp_path, ["taste", "warmth"], 2, 0)) == list(RUNS)
    assert asked == list(RUNS)
    script.measured(tmp_path, ["taste", "warmth"], 2, 1)
    assert asked == [*RUNS, *RUNS], "another seed is another measurement"


def test_what_evaluate_says_of_a_run(module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    estimate = {"mean": 0.25, "standard_error": 0.1}
    sides = {"rewards": {name: {"difference": estimate} for name in ("taste", "alignment", "mixture.taste")}}
    said = {"evaluations": [{"sets": [{"name": "training", "diversity": {"difference": estimate}, **sides}]}]}
    script = module("cross_rewards")

    def run(command: list[str], **_: Any) -> Any:
        assert command[-9:] == ["--reward", "taste", "--reward", "alignment", "--json", "--images", "2", "--seed", "7"]
        return type("Said", (), {"stdout": json.dumps(said)})

    monkeypatch.setattr(script.subprocess, "run", run)
    found = script.evaluated(Path("run"), ["taste"], 2, 7)
    assert found == {"training": {"taste": 0.25, "alignment": 0.25, "diversity": 0.25}}
