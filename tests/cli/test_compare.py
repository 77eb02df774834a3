"""`stepcredit compare` on a comparison file or a recipe, and errors."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from tests.cli.command_line import refused, stepcredit
from tests.comparison.faked import FAKE, FILE, results, timeless

from stepcredit.comparison import process_pool, run

TINY = Path(__file__).parents[1] / "comparison" / "tiny.yaml"


@pytest.fixture(autouse=True)
def _here(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "TRAIN", FAKE)
    monkeypatch.setattr(process_pool, "POLL_SECONDS", 0.01)
    (here / "mine.yaml").write_text(FILE)


def protocol(run: str) -> dict[str, object]:
    found: dict[str, object] = yaml.safe_load(Path(run, "protocol.yaml").read_text())["protocol"]
    return found


def test_tables_on_stdout_and_progress_on_stderr(here: Path) -> None:
    said = stepcredit("compare", "mine.yaml", "train.epochs=3", "--run", "a", "--jobs", "3")
    assert said.code == 0
    assert said.out.startswith("jpeg_compressibility: 3 fresh seeds")
    assert all(f"a/{name}\n" in said.out for name in ("results.json", "summary.md", "report.html"))
    lines = said.err.splitlines()
    assert len([line for line in lines if line.startswith("run ")]) == 18
    assert any("uniform: learning rate 0.01" in line and "linear: learning rate 0.01" in line for line in lines)
    assert lines[-1].startswith("run  18/18  fresh/")
    assert len(results(here / "a")["rewards"]["jpeg_compressibility"]["arms"]["linear"]["by_seed"][0]["rewards"]) == 3
    assert {path.name for path in (here / "a").iterdir()} == {
        "learning_rates.json",
        "protocol.yaml",
        "report.html",
        "results.json",
        "runs",
        "summary.md",
    }


def test_rules_are_compared_on_a_recipe(here: Path) -> None:
    rules = [
        "--credit",
        "linear,uniform",
        "--learning-rates",
        "0.01,0.02",
        "--clip-ranges",
        "0.01",
        "--seeds",
        "2",
        "--last-epochs",
        "1",
    ]
    said = stepcredit(
        "compare", "embedded_jpeg", "train.epochs=2", *rules, "--reward", "warmth", "--watch", "jpeg_compressibility"
    )
    assert said.code == 0, said
    found = protocol("runs/embedded_jpeg-compare")
    assert found["arms"] == {name: {"credit.name": name} for name in ("linear", "uniform", "drop-last")}
    assert (found["reference"], found["learning_rates"], found["clip_ranges"]) == ("uniform", [0.01, 0.02], [0.01])
    assert (found["tuning_seeds"], found["fresh_seeds"]) == ([1, 2], [101, 102])
    assert found["watch"] == ["jpeg_compressibility"]
    assert (found["rewards"], found["criterion"]) == ({"warmth": {"reward.name": "warmth"}}, {"last_epochs": 1})


def test_the_first_line_tells_the_cost(here: Path) -> None:
    said = stepcredit("compare", "mine.yaml", "--run", "a")
    # 2 arms, 3 rates, 2 tuning seeds and 3 fresh seeds; epochs of 64 images.
    cost, *_ = said.err.splitlines()
    assert cost.startswith("18 runs, 72 epochs, 4,608 reward queries: 12 to choose from 3 learning rates ")
    assert "6 to compare 2 arms (uniform, linear)" in cost


def test_settings_are_tuned_and_a_control_is_added_by_default(here: Path) -> None:
    small = ["compare", "embedded_jpeg", "train.epochs=1", "--credit", "uniform,linear", "--last-epochs", "1"]
    said = stepcredit(*small, "--seeds", "1", "--tuning-seeds", "1", "--run", "a")
    assert said.code == 0, said
    assert said.err.startswith(
        "30 runs, 30 epochs, 1,920 reward queries: 27 to choose from 3 learning rates x 3 clip r"
    )
    tuning = results(here / "a")["rewards"]["jpeg_compressibility"]["arms"]["drop-last"]["tuning"]
    assert len({(one["learning_rate"], one["clip_range"]) for one in tuning["grid"]}) == 9
    untuned = stepcredit(*small, "--seeds", "1", "--tuning-seeds", "0", "--controls", "none", "--run", "b")
    assert untuned.err.startswith("2 runs, 2 epochs, 128 reward queries: 2 to compare 2 arms (uniform, linear)")
    assert "nothing is tuned" in untuned.err.splitlines()[0]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["mine.yml"], "no recipe file mine.yml"),
        (["mine.yaml", "embedded_jpeg"], "give one comparison file or recipe, not 2"),
        (["mine.yaml", "--credit", "linear"], "mine.yaml is a comparison: write --credit"),
        (["mine.yaml", "--run", "lr=3"], "lr=3 contains '='"),
        (["mine.yaml", "train.epoch=3"], "unknown key 'train.epoch' in overrides of embedded_jpeg; did you mean"),
        (["embedded_jpeg"], "embedded_jpeg is a recipe: give the credit rules to compare with --credit NAME,NAME"),
        (["embedded_jpeg", "--credit", "uniform,uniform"], "--credit has uniform twice"),
        (["embedded_jpeg", "--credit", "uniform,"], "--credit uniform, has an empty name"),
        (["embedded_jpeg", "--credit", "uniform"], "arms = {'uniform': 'uniform'} in the command line: dictionary sh"),
        (["embedded_jpeg", "--credit", "uniform,liner"], "arm 'liner': unknown credit rule 'liner' (did you mean 'li"),
        (["embedded_jpeg", "--credit", "uniform,linear", "--reference", "x"], "the command line: unknown reference a"),
        (["embedded_jpeg", "--credit", "uniform,linear", "--learning-rates", "1,x"], "learning_rates.1 = 'x' in the"),
        (
            ["embedded_jpeg", "--credit", "uniform,linear", "--learning-rates", "1,2", "--tuning-seeds", "0"],
            "the command line: learning_rates has 2 to choose from: give tuning_seeds",
        ),
        (["embedded_jpeg", "--credit", "uniform,linear", "--clip-ranges", "1,x"], "clip_ranges.1 = 'x' in the"),
        (
            ["embedded_jpeg", "--credit", "uniform,linear", "--learning-rates", "1,2", "--tuning-seeds", "101"],
            "the command line: tuning_seeds and fresh_seeds share 101: ",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_is_a_one_line_error(arguments: list[str], line: str) -> None:
    assert refused("compare", *arguments).startswith(line)


def test_the_tiny_example_is_valid(here: Path) -> None:
    assert stepcredit("compare", TINY, "--run", "a").code == 0


# With the embedded pipeline


def embedded(run: str, *, kill_after: int | None = None, file: Path = TINY, jobs: int = 2) -> int:
    """Run the tiny example as a process, kill it and its runs after `kill_after` runs, and return the exit code."""
    command = [sys.executable, "-m", "stepcredit", "compare", str(file), "--run", run, "--jobs", str(jobs)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if kill_after is not None and line.startswith(f"run {kill_after:>3}/"):
                process.send_signal(signal.SIGSTOP)  # so that it cannot start another run before it is killed
                said = subprocess.run(["ps", "-o", "pid=", "--ppid", str(process.pid)], capture_output=True, text=True)
                process.kill()
                for child in said.stdout.split():
                    os.kill(int(child), signal.SIGKILL)
        return process.wait()


@pytest.mark.slow
def test_a_comparison_that_was_killed_twice_has_the_same_numbers(here: Path) -> None:
    assert embedded("whole") == 0
    assert [embedded("killed", kill_after=2), embedded("killed", kill_after=6)] == [-signal.SIGKILL] * 2
    assert not (here / "killed" / "results.json").exists()
    assert embedded("killed") == 0
    assert results(here / "killed") == results(here / "whole")
    arms = json.loads((here / "whole" / "results.json").read_text())["rewards"]["jpeg_compressibility"]["arms"]
    finals = [row["final"] for arm in arms.values() for row in arm["by_seed"]]
    assert len(set(finals)) == len(finals) == 4
    assert all(arm["watched"]["alignment"]["final"]["mean"] > 0.5 for arm in arms.values())
    assert timeless(json.loads((here / "killed" / "learning_rates.json").read_text())) == timeless(
        json.loads((here / "whole" / "learning_rates.json").read_text())
    )


@pytest.mark.slow
def test_an_evaluation_that_was_killed_is_made_again_with_the_same_numbers(here: Path) -> None:
    (here / "captions.txt").write_text("a red circle\ntwo squares\n")
    changes = {
        "learning_rates": [],
        "tuning_seeds": [],
        "fresh_seeds": [11],
        "watch": [],
        "evaluate": {"prompts": ["captions.txt"], "images": 2, "rewards": ["composition"]},
    }
    file = here / "evaluated.yaml"
    file.write_text(yaml.safe_dump(yaml.safe_load(TINY.read_text()) | changes))
    assert embedded("whole", file=file, jobs=1) == 0
    assert embedded("killed", file=file, jobs=1, kill_after=3) == -signal.SIGKILL
    assert len([*(here / "killed").rglob("evaluation.json")]) == 1
    assert embedded("killed", file=file, jobs=1) == 0
    assert results(here / "killed") == results(here / "whole")
    (found,) = results(here / "whole")["rewards"]["jpeg_compressibility"]["evaluation"]
    assert [set(base["arms"]) for base in found["base"]] == [{"uniform", "contribution-w1"}], "equal noise for all runs"
    known = ["rewards.jpeg_compressibility", "rewards.composition", "pass_rates.composition"]
    assert list(found["base"][0]["figures"]) == [*known, "diversity", "frechet"]
    assert found["baselines"]["frechet_of_renders"] > 0
