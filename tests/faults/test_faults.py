"""Each fault either ends the run with a one-line error, after which it can be resumed, or is noted and survived."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any, Literal

import pytest
import torch
from safetensors.torch import load_file
from tests.cli.command_line import TOY, Said, newest_checkpoint, rows, stepcredit, tree
from tests.faults.disk import BROKEN, CLOSED, FULL, failing_fsync, remount, small_disk
from tests.faults.injected import CPU, CUDA, Injection, at_calls, patched, raising
from tests.faults.killing import hidden
from tests.hostile.trials import REFUSED, record
from tests.toy_policy import WEIGHTS, ToyPolicy

from stepcredit.maths import loss
from stepcredit.rewards.warmth import Warmth
from stepcredit.runs import checkpoint
from stepcredit.runs.trackers.tensorboard import TensorBoardTracker
from stepcredit.training import reward_queue

pytestmark = pytest.mark.usefixtures("toy")
CONTINUES = "noted, the run continues"


EPOCH_2 = range(3, 4)
"""Calls in epoch 2 of rewards and rollouts (the first grid is call 1) and of updates (two per epoch)."""
ALWAYS = 10**6


def reward(change: Callable[[Any], Any]) -> Injection:
    return lambda: at_calls(Warmth, "__call__", EPOCH_2, change)


def rollout(change: Callable[[Any], Any]) -> Injection:
    return lambda: at_calls(ToyPolicy, "rollout", EPOCH_2, change)


def replays(calls: range, error: BaseException) -> Injection:
    """Fail training forwards. The self-check has 15 and an epoch 8, or 39 and 32 with one image at a time."""
    return lambda: at_calls(ToyPolicy, "replay", calls, raising(error))


def gradients(calls: range, value: float) -> Injection:
    """Multiply the gradient norms of some updates."""
    return lambda: at_calls(torch.nn.utils, "clip_grad_norm_", calls, lambda norm: norm * value)


def full(part: str, visits: int = 1, number: int = FULL) -> Injection:
    return lambda: failing_fsync(part, number, visits)


@contextmanager
def hanging_reward() -> Iterator[None]:
    woken = Event()
    with pytest.MonkeyPatch.context() as patch, at_calls(Warmth, "__call__", EPOCH_2, lambda _: woken.wait(60)):
        patch.setattr(reward_queue, "GRACE_SECONDS", 0.01)
        yield
    woken.set()


@contextmanager
def infinite_weights() -> Iterator[None]:
    """Make the weights infinite in the third optimizer step."""

    def wrap(original: Callable[..., Any]) -> Callable[..., Any]:
        count = 0

        def step(self: torch.optim.AdamW, *arguments: Any, **named: Any) -> Any:
            nonlocal count
            count += 1
            result = original(self, *arguments, **named)
            if count == 3:
                self.param_groups[0]["params"][0].data.fill_(float("inf"))
            return result

        return step

    with patched(torch.optim.AdamW, "step", wrap):
        yield


def nan_latents(rollout: Any) -> Any:
    rollout.trajectory.latents[0, -1] = torch.nan
    return rollout


@dataclass(frozen=True)
class Fault:
    """A fault and its outcome.

    Attributes:
        what, how: for the table of docs/results/reliability.md.
        inject: active during the run.
        line: pattern of the error that ends the run. If it continues: text of the note.
        continues: whether the run continues.
        equal: how the run, resumed without the fault if it ended, compares with a run without the fault.
        overrides: of the configuration.
        code: exit code of a run that ends.
    """

    what: str
    how: str
    inject: Injection
    line: str
    continues: bool = False
    equal: Literal["exactly", "within rounding", "not"] = "exactly"
    overrides: tuple[str, ...] = ()
    code: int = 2


MEMORY = "out of memory in training"
FAULTS = [
    Fault("reward raises", "in epoch 2", reward(raising(OSError("down"))),
          r"epoch 2: reward 'warmth' raised OSError \(down"),
    Fault("reward hangs", "in epoch 2, longer than reward.timeout", hanging_reward,
          "epoch 2: reward 'warmth' did not score 8 images within 1 s", overrides=("reward.timeout=1",)),
    Fault("reward returns NaN", "for one image", reward(lambda s: s.index_fill(0, torch.tensor([1]), torch.nan)),
          "epoch 2: reward 'warmth' returned nan for 1 of 8 images"),
    Fault("reward returns infinity", "for all images", reward(lambda s: s + torch.inf),
          "epoch 2: reward 'warmth' returned inf for 8 of 8 images"),
    Fault("reward returns too few scores", "3 of 8", reward(lambda s: s[:3]), r"shape \(3,\), expected \(8,\)"),
    Fault("gradient not finite", "NaN in one update", gradients(range(3, 4), torch.nan),
          "epoch 2: skipped 1 of 2 updates",
          continues=True, equal="not"),
    Fault("gradient not finite", "infinite in one update, none may be skipped", gradients(range(3, 4), torch.inf),
          "epoch 2: skipped 1 updates in a row",
          overrides=("train.max_skipped_updates=0",)),
    Fault("gradient not finite", "in every update from epoch 2, two may be skipped", gradients(range(3, 99), torch.nan),
          "epoch 3: skipped 3 updates in a row", equal="not",
          overrides=("train.max_skipped_updates=2",)),
    Fault("loss not finite", "infinite in one micro-batch, its gradient finite",
          lambda: at_calls(loss, "clipped_surrogate", range(9, 10), lambda value: value + torch.inf),
          "epoch 2: skipped 1 of 2 updates",
          continues=True, equal="not"),
    Fault("weights overflow", "in an optimizer step of epoch 2", infinite_weights,
          "epoch 2: the weights are not finite.*stepcredit train --resume --run a$"),
    Fault("model draws NaN", "in the latents of epoch 2", rollout(nan_latents),
          "epoch 2: the latents that the model draws are not finite"),
    Fault(MEMORY, "once, with the error of CUDA", replays(range(26, 27), CUDA),
          "out of memory in training with a micro-batch of 4: ", continues=True, equal="within rounding"),
    Fault(MEMORY, "once, with the error of a CPU", replays(range(30, 31), CPU),
          "out of memory in training with a micro-batch of 4: ", continues=True, equal="within rounding"),
    Fault(MEMORY, "every time from epoch 2", replays(range(26, ALWAYS), CUDA),
          "epoch 2: out of memory in training.* halved to 2.*--resume --run a train.microbatch=1", code=1),
    Fault(MEMORY, "with one image at a time", replays(range(76, ALWAYS), CPU),
          "out of memory in training.*train.microbatch=1",
          equal="within rounding", overrides=("train.microbatch=1",), code=1),
    Fault(MEMORY, "in the optimizer's step", lambda: at_calls(torch.optim.AdamW, "step", EPOCH_2, raising(CUDA)),
          "epoch 2: out of memory in the optimizer's step", code=1),
    Fault("out of memory in sampling", "in epoch 2", rollout(raising(CUDA)),
          "epoch 2: out of memory in sampling.*sample.batch", code=1),
    Fault("disk full", "writing metrics; injected", full("metrics.jsonl", 2), "No space left on device"),
    Fault("disk full", "writing a checkpoint's tensors; injected", full("epoch_0002/tensors"), "No space left"),
    Fault("disk full", "writing a checkpoint's state; injected", full("epoch_0002/state"), "No space left"),
    Fault("disk full", "writing a sample grid; injected", full("epoch_0003.png"), "No space left"),
    Fault("disk full", "exporting the weights; injected", full(WEIGHTS), "No space left"),
    Fault("disk full", "writing the report; injected", full("report.html"), "No space left"),
    Fault("disk full", "writing the first checkpoint; injected", full("epoch_0000/state"),
          "No space left on device"),
    Fault("disk full", "writing environment.json; injected", full("environment.json"),
          "cannot write the run directory a: No space left"),
    Fault("disk broken", "writing a checkpoint; injected", full("epoch_0002/tensors", 1, BROKEN), "Input/output error"),
    Fault("run directory read-only", "from epoch 2 on; injected", full("epoch_0002", 1, CLOSED),
          "Read-only file system"),
    Fault("TensorBoard fails", "from the start",
          lambda: at_calls(TensorBoardTracker, "__init__", range(1, ALWAYS), raising(OSError(5, "no!"))),
          "tracker 'tensorboard' failed (no!)", continues=True),
    Fault("TensorBoard fails", "in epoch 2",
          lambda: at_calls(TensorBoardTracker, "log_metrics", range(2, ALWAYS), raising(ValueError("odd"))),
          "tracker 'tensorboard' failed (ValueError: odd)", continues=True),
]  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run without faults."""
    path = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        patch.setattr("stepcredit.policy.loading.load_policy", lambda config, **_: ToyPolicy(config.sample.steps))
        assert stepcredit("train", *TOY, "--run", "a").code == 0
    return path / "a"


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: f"{fault.what}, {fault.how}")
def test_a_run_survives_a_fault_or_can_be_resumed(here: Path, whole: Path, toy: list[ToyPolicy], fault: Fault) -> None:
    command = ["train", *TOY, *fault.overrides, "--run", "a"]
    with fault.inject():
        said = stepcredit(*command)
    if fault.continues:
        assert (said.code, said.err) == (0, "") and said.out.count(fault.line) == 1, said
        record(fault.what, fault.how, CONTINUES)
    else:
        assert_one_line(said, fault.line, fault.code)
        outcome = REFUSED.replace("2", str(fault.code))
        record(fault.what, fault.how, f"{outcome}; resumed without the fault", lost(here / "a", toy[-1:]))
        assert_ends(command)
    assert_like(here / "a", whole, fault.equal)


def assert_one_line(said: Said, pattern: str, code: int = 2) -> None:
    assert said.code == code, said
    assert said.err.count("\n") == 1 and said.err.startswith("stepcredit: "), said.err
    assert re.search(pattern, said.err), said.err


def assert_ends(command: list[str]) -> None:
    """Resume run `a`, or start it again if it has no folder."""
    resumed = ["train", "--resume", "--run", "a", "reward.timeout=600"]
    said = stepcredit(*(resumed if Path("a").exists() else command))
    assert (said.code, said.err) == (0, ""), said


def assert_like(path: Path, whole: Path, equal: str) -> None:
    assert [row["epoch"] for row in rows(path)] == [1, 2, 3]
    assert hidden(path) == []
    weights = [load_file(run / "lora" / WEIGHTS)["target"] for run in (path, whole)]
    if equal == "within rounding":
        assert not torch.equal(*weights) or rows(path) != rows(whole), "the fault had no effect"
        torch.testing.assert_close(*weights, atol=1e-4, rtol=0)
    elif equal == "not":
        assert not torch.equal(*weights)
    else:
        assert rows(path) == rows(whole)
        assert newest_checkpoint(path)["tensors.safetensors"] == newest_checkpoint(whole)["tensors.safetensors"]
        for folder in ("samples", "lora"):
            assert tree(path / folder) == tree(whole / folder)


def lost(path: Path, policies: list[ToyPolicy]) -> str:
    """What is lost: at most the unfinished epoch. Every file in the run directory is complete."""
    assert not path.exists() or hidden(path) == []
    saved = [checkpoint.load(folder) for folder in checkpoint.folders(path / "checkpoints")]
    assert all(value.isfinite().all() for one in saved for value in one.tensors.values())
    metrics = path / "metrics.jsonl"
    assert not metrics.exists() or metrics.read_bytes()[-1:] in (b"", b"\n")
    begun = sum(len(texts) == 8 for policy in policies for texts, _ in policy.rollouts)
    again = begun - max((one.epoch for one in saved), default=0)
    assert again in (0, 1)
    return "the unfinished epoch" if again else "nothing"


# Real disks


SIZES = [16, 56, *(pytest.param(size, marks=pytest.mark.slow) for size in range(4, 77, 4))]


@pytest.mark.parametrize("size", SIZES)
def test_a_run_on_a_full_disk_can_be_resumed(here: Path, whole: Path, toy: list[ToyPolicy], size: int) -> None:
    """Depending on its size, the disk is full at different points of the run."""
    command = ["train", *TOY, "--run", "a"]
    with small_disk(here / "disk", size), pytest.MonkeyPatch.context() as patch:
        patch.chdir(here / "disk")
        said = stepcredit(*command)
        assert_one_line(said, "No space left on device")
        record("disk full", "a tmpfs of 4 to 76 KiB", f"{REFUSED}; resumed", lost(Path("a"), toy[-1:]))
        remount(here / "disk", "size=64m")
        assert_ends(command)
        assert_like(Path("a"), whole, "exactly")


def test_a_read_only_disk(here: Path, whole: Path) -> None:
    command = ["train", *TOY, "train.epochs=2", "--run", "a"]
    with small_disk(here / "disk", 65536), pytest.MonkeyPatch.context() as patch:
        patch.chdir(here / "disk")
        assert stepcredit(*command).code == 0
        remount(here / "disk", "ro")
        before = tree(here / "disk")
        for words in ([*command[:-1], "b"], ["train", "--resume", "--run", "a", "train.epochs=3"]):
            assert_one_line(stepcredit(*words), r"cannot write the run directory [ab]: Read-only file system")
            record("run directory read-only", "a tmpfs mounted read-only", REFUSED)
        assert tree(here / "disk") == before
        remount(here / "disk", "rw")
        assert stepcredit("train", "--resume", "--run", "a", "train.epochs=3").code == 0
        assert rows(Path("a")) == rows(whole)


# Damaged checkpoints


@pytest.mark.parametrize("name", ["tensors.safetensors", "state.json"])
@pytest.mark.parametrize("how", ["torn", "one bit flipped", "empty", "gone"])
def test_a_damaged_newest_checkpoint_is_replaced_by_the_one_before(
    here: Path, whole: Path, name: str, how: str
) -> None:
    assert stepcredit("train", *TOY, "train.epochs=2", "--run", "a").code == 0
    file = here / "a" / "checkpoints" / "epoch_0002" / name
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    damaged = {"torn": content[: len(content) // 2], "one bit flipped": content, "empty": b""}
    file.unlink() if how == "gone" else file.write_bytes(damaged[how])
    said = stepcredit("train", "--resume", "--run", "a", "train.epochs=3")
    assert (said.code, said.err) == (0, "")
    assert re.match(r"checkpoint a/checkpoints/epoch_0002 is damaged: .*damaged_epoch_0002.*epoch_0001\n", said.out)
    assert (here / "a" / "checkpoints" / "damaged_epoch_0002").is_dir()
    assert rows(here / "a") == rows(whole)
    assert newest_checkpoint(here / "a")["tensors.safetensors"] == newest_checkpoint(whole)["tensors.safetensors"]
    record("newest checkpoint damaged", f"a file {how}", "reported; the one before is used", "one epoch")


def test_all_checkpoints_damaged(here: Path) -> None:
    assert stepcredit("train", *TOY, "--run", "a").code == 0
    for folder in checkpoint.folders(here / "a" / "checkpoints"):
        (folder / "state.json").write_text("{}")
    before = tree(here)
    said = stepcredit("train", "--resume", "--run", "a")
    assert_one_line(said, "checkpoint a/checkpoints/epoch_0003 is damaged: .*all older ones")
    assert tree(here) == before
    record("every checkpoint damaged", "state.json overwritten", REFUSED, "the run")


# Once more after a fault


def test_a_halved_micro_batch_is_part_of_the_checkpoint(here: Path) -> None:
    with replays(range(30, 31), CPU)():
        assert stepcredit("train", *TOY, "--run", "whole").code == 0
    with replays(range(30, 31), CPU)():
        assert stepcredit("train", *TOY, "train.epochs=2", "--run", "parts").code == 0
    assert stepcredit("train", "--resume", "--run", "parts", "train.epochs=3").code == 0
    assert rows(here / "parts") == rows(here / "whole")
    assert newest_checkpoint(here / "parts") == newest_checkpoint(here / "whole")


def test_a_micro_batch_given_on_resume_replaces_the_halved_one(here: Path) -> None:
    with replays(range(26, 27), CUDA)():
        assert stepcredit("train", *TOY, "train.epochs=2", "--run", "a").code == 0
    assert sizes(here / "a") == {"asked": None, "halved": 2}
    assert stepcredit("train", "--resume", "--run", "a", "train.epochs=3", "train.microbatch=4").code == 0
    assert sizes(here / "a") == {"asked": 4, "halved": None}


def sizes(path: Path) -> Any:
    return checkpoint.load(checkpoint.folders(path / "checkpoints")[-1]).state["microbatch"]


def test_skipped_updates_are_counted(here: Path) -> None:
    with gradients(range(3, 5), float("nan"))():
        assert stepcredit("train", *TOY, "--run", "a").code == 0
    first, second, third = rows(here / "a")
    assert [row["skipped_updates"] for row in (first, second, third)] == [0, 2, 0]
    assert (second["loss"], second["grad_norm"]) == (None, None) and second["ratio_max_deviation"] == 0
    assert third["loss"] is not None


@pytest.mark.parametrize("every", [1, 3])
def test_an_interrupt_between_updates_loses_no_finished_epoch(here: Path, every: int) -> None:
    with at_calls(Warmth, "__call__", range(4, 5), raising(KeyboardInterrupt())):
        said = stepcredit("train", *TOY, f"run.checkpoint_every={every}", "--run", "a")
    assert said.code == 130
    assert "a/checkpoints/epoch_0002" in said.err


def test_changed_package_versions_are_noted_on_resume(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert stepcredit("train", *TOY, "--run", "a", "train.epochs=1").code == 0
    monkeypatch.setattr("stepcredit.runs.directory._PACKAGES", ("torch", "numpy"))
    monkeypatch.setattr("stepcredit.runs.directory._version", {"torch": "9.9", "numpy": torch.__version__}.get)
    said = stepcredit("train", "--resume", "--run", "a", "train.epochs=2")
    assert said.code == 0
    assert re.search(r"versions.*: torch \S+ -> 9.9; numpy", said.out)
