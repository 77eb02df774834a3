"""One of two processes meets with a fault: both end, or go on, and the run can be resumed with either number."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from safetensors.torch import load_file
from tests.cli.command_line import TOY, rows
from tests.distributed.launched import RUN, command, run
from tests.faults.killing import assert_same_run, hidden
from tests.faults.pair import Pair
from tests.faults.test_faults import CARRIES_ON
from tests.hostile.trials import REFUSED, record
from tests.toy_policy import WEIGHTS

from stepcredit.runs import checkpoint

BOUND = 40.0
"""Seconds from a worker's death to the end of the job: torchrun gives the others 30, and a few for its own."""
ENDED = "another process of this run has ended, or cannot be reached"
BIT_FOR_BIT = "resumed: bit for bit the same run"


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return Pair(tmp_path_factory.mktemp("pair"), [*TOY, "model.device=cpu", "reward.timeout=1"])


@pytest.mark.parametrize("rank", [0, 1], ids=["main", "other"])
@pytest.mark.parametrize("when", ["in sampling", "in an update", "before the metrics"])
def test_who_is_killed_ends_both_and_the_run_goes_on(pair: Pair, when: str, rank: int) -> None:
    """Without a launcher: the one that is left notices by itself."""
    ended = pair.start(f"killed-{when}-{rank}", f"killed {when}", rank)
    assert ended[rank].code == -signal.SIGKILL
    left = ended[1 - rank]
    assert left.code == 1 and left.err == f"stepcredit: {'process 1: ' if rank == 0 else ''}{ENDED}\n"
    goes_on(pair, f"killed-{when}-{rank}", left=[".lock"] if rank == 0 else [])
    which = "the main one" if rank == 0 else "not the main one"
    outcome = f"the other ends in one line; {BIT_FOR_BIT}"
    record("SIGKILL of one of two processes", f"toy policy, {when}, {which}", outcome, "the epoch in work")


@dataclass(frozen=True)
class Fault:
    """What goes wrong on one of two processes, and the line that both end in, told once."""

    what: str
    rank: int
    line: str


TOLD = [
    Fault("reward raises", 1, "epoch 2: reward 'warmth' raised OSError (down) on 4 images"),
    Fault("reward hangs", 1, "epoch 2: reward 'warmth' did not score 4 images within 1 s"),
    Fault("disk full", 0, "cannot write the run directory disk full: No space left on device"),
]


@pytest.mark.parametrize("fault", TOLD, ids=lambda fault: fault.what)
def test_an_error_of_one_process_is_told_once_and_ends_both(pair: Pair, fault: Fault) -> None:
    ended = pair.start(fault.what, fault.what, fault.rank)
    assert [each.code for each in ended] == [2, 2]
    assert ended[0].err.startswith(f"stepcredit: {fault.line}") and ended[0].err.count("\n") == 1
    assert ended[1].err == ""
    goes_on(pair, fault.what)
    outcome = f"{REFUSED}, told once; {BIT_FOR_BIT}"
    record(f"{fault.what}, of one of two processes", "toy policy, in epoch 2", outcome, "the epoch in work")


def test_a_bug_on_one_process_ends_both(pair: Pair) -> None:
    ended = pair.start("bug", "a bug", 1)
    assert [each.code for each in ended] == [1, 1]
    assert ended[0].err == f"stepcredit: {ENDED}\n" and ended[1].err.endswith("RuntimeError: a bug\n")
    goes_on(pair, "bug")
    outcome = f"a traceback there, one line on the other; {BIT_FOR_BIT}"
    record("error that is a bug, on one of two processes", "toy policy, in an update", outcome, "the epoch in work")


def goes_on(pair: Pair, name: str, left: Sequence[str] = ()) -> None:
    """With two processes, to the very run; at most one epoch was lost. A killed main process leaves its lock."""
    assert hidden(pair.folder / name) == list(left)
    assert checkpoint.load(checkpoint.folders(pair.folder / name / "checkpoints")[-1]).epoch == 1
    assert [(each.code, each.err) for each in pair.start(name, resume=True)] == [(0, ""), (0, "")]
    assert_same_run(pair.folder / name, pair.folder / "whole")


def test_a_gradient_that_is_not_finite_on_one_process_is_skipped_by_both(pair: Pair) -> None:
    ended = pair.start("nan", "NaN", 1)
    assert [(each.code, each.err) for each in ended] == [(0, ""), (0, "")]
    assert ended[0].out.count("epoch 2: updates skipped because their loss or gradient is not finite: 1 of 2") == 1
    assert [row["skipped_updates"] for row in rows(pair.folder / "nan")] == [0, 1, 0]
    record("gradient not finite, on one of two processes", "toy policy, NaN in one update", CARRIES_ON)


def test_memory_that_runs_out_on_one_process_is_told_and_remembered(pair: Pair) -> None:
    """By all: the checkpoint, which the main one writes, holds the micro-batch that the other was left with."""
    ended = pair.start("memory", "out of memory", 1)
    assert [(each.code, each.err) for each in ended] == [(0, ""), (0, "")]
    line = "epoch 2: out of memory in training on another process: all go on with a micro-batch of 1\n"
    assert ended[0].out.count(line) == 1
    sizes = [
        checkpoint.load(kept).state["microbatch"] for kept in checkpoint.folders(pair.folder / "memory/checkpoints")
    ]
    assert [size["halved"] for size in sizes] == [1, 1]
    ours, theirs = (load_file(pair.folder / name / "lora" / WEIGHTS)["target"] for name in ("memory", "whole"))
    assert float((ours - theirs).abs().max()) < 1e-4
    record("out of memory in training, on one of two processes", "toy policy, once", CARRIES_ON)


@pytest.mark.slow
def test_memory_that_runs_out_where_weights_are_shared_out_ends_the_run(tmp_path: Path) -> None:
    """One process that began again would make forwards that the other does not take part in."""
    pair = Pair(
        tmp_path, ["embedded_jpeg", *RUN, "train.epochs=1", "model.shard=true", "model.adapter=full"], toy=False
    )
    ended = pair.start("a", "out of memory, shared out", 1)
    assert [each.code for each in ended] == [1, 1]
    assert ended[0].err == f"stepcredit: {ENDED}\n"
    line = "process 1: epoch 1: out of memory in training with a micro-batch of 2, which is not halved with model.shard"
    assert ended[1].err.startswith(f"stepcredit: {line}") and ended[1].err.endswith(
        "--resume --run a train.microbatch=1\n"
    )
    resumed = pair.start("a", resume=True, overrides=["train.microbatch=1"])
    assert [each.code for each in resumed] == [0, 0], resumed
    (ours,), (theirs,) = (rows(tmp_path / name) for name in ("a", "whole"))
    assert ours["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=1e-3)
    outcome = "one line on each; resumed with train.microbatch=1"
    record("out of memory in training, model.shard", "embedded pipeline, on one of two", outcome, "the epoch in work")


# With a launcher, and a pipeline


@pytest.fixture
def job(tmp_path: Path) -> subprocess.Popen[str]:
    """Two processes in the middle of a run, `c`."""
    words = ["train", "embedded_jpeg", *RUN, "train.epochs=40", "--run", "c"]
    started = subprocess.Popen(
        command(*words, processes=2), cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    metrics, deadline = tmp_path / "c/metrics.jsonl", time.monotonic() + 120
    while not (metrics.exists() and metrics.read_text().count("\n") >= 2):
        assert time.monotonic() < deadline and started.poll() is None
        time.sleep(0.05)
    return started


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGKILL of a worker", "SIGTERM to torchrun"])
def test_a_job_that_is_stopped_ends_in_time_and_the_run_goes_on_with_one(
    name: str, job: subprocess.Popen[str], tmp_path: Path
) -> None:
    stopped = time.monotonic()
    if name == "SIGTERM to torchrun":
        job.terminate()
    else:
        children = subprocess.run(["pgrep", "-P", str(job.pid)], capture_output=True, text=True).stdout.split()
        os.kill(int(children[-1]), signal.SIGKILL)
    said, _ = job.communicate(timeout=BOUND)
    seconds = time.monotonic() - stopped
    assert job.returncode != 0 and seconds < BOUND
    print(f"{name}: ended after {seconds:.1f} s")
    finished = checkpoint.load(checkpoint.folders(tmp_path / "c/checkpoints")[-1]).epoch
    assert len(rows(tmp_path / "c")) - finished in (0, 1)
    if name == "SIGTERM to torchrun":
        assert said.count("stepcredit: interrupted; kept c/checkpoints/epoch_") == 1, said
    resumed = run(tmp_path, "train", "--resume", "--run", "c", f"train.epochs={finished + 1}", processes=1)
    assert resumed.returncode == 0, resumed.stderr
    shutil.rmtree(tmp_path / "alone", ignore_errors=True)
    words = ["train", "embedded_jpeg", *RUN, "--run", "alone"]
    assert run(tmp_path, *words, processes=1).returncode == 0
    for first, second in zip(rows(tmp_path / "alone"), rows(tmp_path / "c"), strict=False):
        assert second["reward_mean"] == pytest.approx(first["reward_mean"], rel=1e-3)
    outcome = "the job ends within 40 s; resumed with one process"
    record(f"{name} of two", "embedded pipeline, torchrun", outcome, "at most the epoch in work")
