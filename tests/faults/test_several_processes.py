"""A fault on one of two processes: both end or both continue, and the run can be resumed."""

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
from tests.cli.command_line import TOY, rows, stepcredit
from tests.distributed.launched import RUN, command, run
from tests.faults.killing import assert_same_run, hidden
from tests.faults.pair import Pair
from tests.faults.test_faults import CONTINUES
from tests.hostile.trials import REFUSED, record
from tests.toy_policy import WEIGHTS, ToyPolicy

from stepcredit.runs import checkpoint

BOUND = 40.0
"""Seconds from the end of a worker to the end of the job. torchrun gives the others 30."""
ENDED = "another process of this run has ended or cannot be reached"
BIT_FOR_BIT = "resumed: bit for bit the same run"


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return Pair(tmp_path_factory.mktemp("pair"), [*TOY, "model.device=cpu", "reward.timeout=1"])


def test_two_processes_train_as_one(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """Images are equal bit for bit. Gradients are summed in another order. The slow suite does this with a pipeline."""
    assert_one_process_does_the_same(pair, monkeypatch)


def test_two_processes_leave_out_the_same_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of two prompts has constant scores, and the images of a prompt lie on both processes."""
    (tmp_path / "mine.py").write_text(HALF_CONSTANT)
    words = [*TOY, "model.device=cpu", "reward.name=mine.py:half_constant", "train.skip_constant_groups=true"]
    pair = Pair(tmp_path, words)
    assert_one_process_does_the_same(pair, monkeypatch)
    assert all(row["constant_groups"] > 0 for row in rows(pair.folder / "whole"))


HALF_CONSTANT = """
def half_constant(images, prompts):
    scores = images[:, 0].mean((1, 2))
    for row, prompt in enumerate(prompts):
        if "circle" in prompt:
            scores[row] = 0.5
    return scores
"""


def assert_one_process_does_the_same(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(pair.folder)
    monkeypatch.setattr("stepcredit.policy.loading.load_policy", lambda config, **_: ToyPolicy(config.sample.steps))
    assert stepcredit("train", *pair.arguments, "--run", "alone").code == 0
    one, two = rows(pair.folder / "alone"), rows(pair.folder / "whole")
    assert two[0]["reward_mean"] == one[0]["reward_mean"]
    for ours, theirs in zip(one, two, strict=True):
        assert ours["reward_queries"] == theirs["reward_queries"] and theirs["ratio_max_deviation"] == 0
        for name in ("reward_mean", "reward_std", "loss", "grad_norm", "approx_kl", "credit_profile"):
            assert theirs[name] == pytest.approx(ours[name], rel=1e-3, abs=1e-7), name
    first, second = (load_file(pair.folder / name / "lora" / WEIGHTS)["target"] for name in ("alone", "whole"))
    assert float((first - second).abs().max()) < 1e-4


@pytest.mark.parametrize("rank", [0, 1], ids=["main", "other"])
@pytest.mark.parametrize("when", ["in sampling", "in an update", "before the metrics"])
def test_killing_one_process_ends_both_and_the_run_can_be_resumed(pair: Pair, when: str, rank: int) -> None:
    """There is no launcher: the other process notices by itself."""
    ended = pair.start(f"killed-{when}-{rank}", f"killed {when}", rank)
    assert ended[rank].code == -signal.SIGKILL
    left = ended[1 - rank]
    assert left.code == 1 and left.err == f"stepcredit: {'process 1: ' if rank == 0 else ''}{ENDED}\n"
    assert_resumes(pair, f"killed-{when}-{rank}", left=[".lock"] if rank == 0 else [])
    which = f"rank {rank}"
    outcome = f"the other exits with one line; {BIT_FOR_BIT}"
    record("SIGKILL of one of two processes", f"toy policy, {when}, {which}", outcome, "the unfinished epoch")


@dataclass(frozen=True)
class Fault:
    """A fault on one of two processes, and the error that both raise and rank 0 prints."""

    what: str
    rank: int
    line: str


SHARED = [
    Fault("reward raises", 1, "epoch 2: reward 'warmth' raised OSError (down) on 4 images"),
    Fault("reward hangs", 1, "epoch 2: reward 'warmth' did not score 4 images within 1 s"),
    Fault("disk full", 0, "cannot write the run directory disk full: No space left on device"),
]


@pytest.mark.parametrize("fault", SHARED, ids=lambda fault: fault.what)
def test_an_error_on_one_process_ends_both_and_is_printed_once(pair: Pair, fault: Fault) -> None:
    ended = pair.start(fault.what, fault.what, fault.rank)
    assert [each.code for each in ended] == [2, 2]
    assert ended[0].err.startswith(f"stepcredit: {fault.line}") and ended[0].err.count("\n") == 1
    assert ended[1].err == ""
    assert_resumes(pair, fault.what)
    outcome = f"{REFUSED}, printed once; {BIT_FOR_BIT}"
    record(f"{fault.what}, of one of two processes", "toy policy, in epoch 2", outcome, "the unfinished epoch")


def test_a_bug_on_one_process_ends_both(pair: Pair) -> None:
    ended = pair.start("bug", "a bug", 1)
    assert [each.code for each in ended] == [1, 1]
    assert ended[0].err == f"stepcredit: {ENDED}\n" and ended[1].err.endswith("RuntimeError: a bug\n")
    assert_resumes(pair, "bug")
    outcome = f"a traceback there, one line on the other; {BIT_FOR_BIT}"
    record("unexpected exception on one of two processes", "toy policy, in an update", outcome, "the unfinished epoch")


def assert_resumes(pair: Pair, name: str, left: Sequence[str] = ()) -> None:
    """Resume with two processes; the result equals a run without the fault. A killed rank 0 leaves its lock file."""
    assert hidden(pair.folder / name) == list(left)
    assert checkpoint.load(checkpoint.folders(pair.folder / name / "checkpoints")[-1]).epoch == 1
    assert [(each.code, each.err) for each in pair.start(name, resume=True)] == [(0, ""), (0, "")]
    assert_same_run(pair.folder / name, pair.folder / "whole")


def test_a_non_finite_gradient_on_one_process_is_skipped_by_both(pair: Pair) -> None:
    ended = pair.start("nan", "NaN", 1)
    assert [(each.code, each.err) for each in ended] == [(0, ""), (0, "")]
    assert ended[0].out.count("epoch 2: skipped 1 of 2 updates") == 1
    assert [row["skipped_updates"] for row in rows(pair.folder / "nan")] == [0, 1, 0]
    record("gradient not finite, on one of two processes", "toy policy, NaN in one update", CONTINUES)


def test_a_micro_batch_that_one_process_halved_is_in_the_checkpoint(pair: Pair) -> None:
    """Rank 0 writes the checkpoint; the other rank runs out of memory."""
    ended = pair.start("memory", "out of memory", 1)
    assert [(each.code, each.err) for each in ended] == [(0, ""), (0, "")]
    assert ended[0].out.count("out of memory in training on another process") == 1
    sizes = [
        checkpoint.load(kept).state["microbatch"] for kept in checkpoint.folders(pair.folder / "memory/checkpoints")
    ]
    assert [size["halved"] for size in sizes] == [1, 1]
    ours, theirs = (load_file(pair.folder / name / "lora" / WEIGHTS)["target"] for name in ("memory", "whole"))
    assert float((ours - theirs).abs().max()) < 1e-4
    record("out of memory in training, on one of two processes", "toy policy, once", CONTINUES)


@pytest.mark.slow
def test_out_of_memory_with_sharded_weights_ends_the_run(tmp_path: Path) -> None:
    """A repeated update on one process would make forwards that the other does not join."""
    pair = Pair(
        tmp_path, ["embedded_jpeg", *RUN, "train.epochs=1", "model.shard=true", "model.adapter=full"], toy=False
    )
    ended = pair.start("a", "out of memory, shared out", 1)
    assert [each.code for each in ended] == [1, 1]
    assert ended[0].err == f"stepcredit: {ENDED}\n"
    assert ended[1].err.startswith("stepcredit: process 1: epoch 1: out of memory in training")
    assert ended[1].err.endswith("--resume --run a train.microbatch=1\n")
    resumed = pair.start("a", resume=True, overrides=["train.microbatch=1"])
    assert [each.code for each in resumed] == [0, 0], resumed
    (ours,), (theirs,) = (rows(tmp_path / name) for name in ("a", "whole"))
    assert ours["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=1e-3)
    outcome = "one line on each; resumed with train.microbatch=1"
    record("out of memory in training, model.shard", "embedded pipeline, one of two", outcome, "the unfinished epoch")


# With a launcher, and a pipeline


@pytest.fixture
def job(tmp_path: Path) -> subprocess.Popen[str]:
    """Two processes after two epochs of a run, `c`."""
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
def test_a_stopped_job_ends_in_time_and_is_resumed_with_one_process(
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
        assert said.count("stepcredit: interrupted") == 1 and "c/checkpoints/epoch_" in said, said
    resumed = run(tmp_path, "train", "--resume", "--run", "c", f"train.epochs={finished + 1}", processes=1)
    assert resumed.returncode == 0, resumed.stderr
    shutil.rmtree(tmp_path / "alone", ignore_errors=True)
    words = ["train", "embedded_jpeg", *RUN, "--run", "alone"]
    assert run(tmp_path, *words, processes=1).returncode == 0
    for first, second in zip(rows(tmp_path / "alone"), rows(tmp_path / "c"), strict=False):
        assert second["reward_mean"] == pytest.approx(first["reward_mean"], rel=1e-3)
    outcome = "the job ends within 40 s; resumed with one process"
    record(f"{name} of two", "embedded pipeline, torchrun", outcome, "at most the unfinished epoch")
