"""A run that is killed at any moment and resumed equals one that was never killed, bit for bit."""

from __future__ import annotations

import re
import shutil

import numpy as np
import pytest
from tests.cli.command_line import TINY, TOY
from tests.faults.killing import SIGNALS, TOY_POLICY, Harness, hidden, lost
from tests.faults.victim import PHASES
from tests.hostile.trials import record

KILLS = 2
"""How often each run is killed before it may finish."""
OUTCOME = {
    "SIGINT": "one line, exit 130, a checkpoint; resumed: bit for bit the same run",
    "SIGTERM": "one line, exit 130, a checkpoint; resumed: bit for bit the same run",
    "SIGKILL": "resumed: bit for bit the same run",
}


@pytest.fixture(scope="module")
def toy_runs(tmp_path_factory: pytest.TempPathFactory) -> Harness:
    advantage = ["train.advantage=running", "prompts.order=random"]
    return Harness(tmp_path_factory.mktemp("toy"), [*TOY, *advantage], TOY_POLICY)


@pytest.fixture(scope="module")
def embedded_runs(tmp_path_factory: pytest.TempPathFactory) -> Harness:
    words = [*TINY, "train.epochs=3", "model.ema=0.5"]
    return Harness(tmp_path_factory.mktemp("embedded"), words, "embedded pipeline")


@pytest.fixture(scope="module")
def full_runs(tmp_path_factory: pytest.TempPathFactory) -> Harness:
    words = [*TINY, "train.epochs=3", "model.ema=0.5", "model.adapter=full", "train.learning_rate=1e-3"]
    return Harness(tmp_path_factory.mktemp("full"), words, "embedded pipeline, all weights")


def survives(harness: Harness, name: str, phase: str, seed: int) -> None:
    """Kill a run KILLS times in a phase, let it finish, and compare it."""
    rng = np.random.default_rng([seed, list(SIGNALS).index(name), PHASES.index(phase)])
    path = harness.folder / "killed"
    shutil.rmtree(path, ignore_errors=True)
    what = f"{name} while {DOING[phase]}"
    for number in range(KILLS):
        ended = harness.process("killed", harness.random_moment(rng, phase, SIGNALS[name]))
        if ended.hit is None:  # the resumed run does not enter the phase again
            assert ended.code == 0 and number, ended
            break
        if name == "SIGKILL":
            assert ended.code == -SIGNALS[name], ended
        else:
            assert ended.code == 130 and ended.err.count("\n") == 1, ended
            assert re.match("stepcredit: interrupted.* killed/checkpoints/epoch_", ended.err), ended
            assert hidden(path) == []
        epochs = lost(path, ended.hit)
        assert 0 <= epochs <= 1
        record(what, f"{harness.policy}, random calls", OUTCOME[name], "the unfinished epoch" if epochs else "nothing")
    final = harness.process("killed", None)
    assert (final.code, final.err) == (0, ""), final
    harness.compare("killed")


DOING = {
    "sampling": "sampling",
    "reward": "the reward scores",
    "credit": "credit is given",
    "update": "updating",
    "metrics": "metrics are recorded",
    "checkpoint": "a checkpoint is written",
    "grid": "a sample grid is drawn",
    "export": "the weights are exported",
    "report": "the report is written",
}
FAST = [("SIGKILL", "checkpoint", 0), ("SIGTERM", "sampling", 0)]
LONG = ("sampling", "reward", "update", "checkpoint")
"""The phases that take most of an epoch."""
SLOW = [(name, phase, seed) for name in SIGNALS for phase in PHASES for seed in range(1, 5 if phase in LONG else 3)]
EMBEDDED = [(name, phase) for name in SIGNALS for phase in PHASES if phase in LONG or name == "SIGKILL"]


@pytest.mark.parametrize(
    ("name", "phase", "seed"), [*FAST, *(pytest.param(*case, marks=pytest.mark.slow) for case in SLOW)]
)
def test_a_killed_run_equals_one_that_was_never_killed(toy_runs: Harness, name: str, phase: str, seed: int) -> None:
    survives(toy_runs, name, phase, seed)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "phase"), EMBEDDED)
def test_a_killed_run_of_a_pipeline_equals_one_that_was_never_killed(
    embedded_runs: Harness, name: str, phase: str
) -> None:
    survives(embedded_runs, name, phase, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "phase"), [("SIGKILL", "update"), ("SIGTERM", "checkpoint"), ("SIGKILL", "export")])
def test_a_killed_run_of_all_weights_equals_one_that_was_never_killed(
    full_runs: Harness, name: str, phase: str
) -> None:
    survives(full_runs, name, phase, seed=0)


@pytest.mark.parametrize("name", ["SIGINT", pytest.param("SIGTERM", marks=pytest.mark.slow)])
def test_the_first_signal_waits_for_the_update_and_the_second_does_not(toy_runs: Harness, name: str) -> None:
    rng = np.random.default_rng(0)
    for again, told in ((False, 0), (True, 1)):
        shutil.rmtree(toy_runs.folder / "killed", ignore_errors=True)
        moment = toy_runs.random_moment(rng, "update", SIGNALS[name], again)
        ended = toy_runs.process("killed", moment)
        assert ended.code == 130 and ended.hit is not None
        assert re.search("(?m)^stopping ", ended.out)
        assert lost(toy_runs.folder / "killed", ended.hit) == told
        assert toy_runs.process("killed", None).code == 0
        toy_runs.compare("killed")
    record(f"{name} twice while updating", "toy policy, random calls", OUTCOME[name], "the unfinished epoch")
