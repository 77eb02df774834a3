"""Runs on two processes with a fault on one of them, without a launcher, which would be slow."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any

import torch
from tests.distributed.launched import free_port
from tests.faults import victim
from tests.faults.disk import FULL, failing_fsync
from tests.faults.injected import CPU, Injection, at_calls, raising
from tests.toy_policy import ToyPolicy

import stepcredit.training.trainer  # noqa: F401  # imported once, before the fork
from stepcredit.policy.pipeline import PipelinePolicy
from stepcredit.rewards.warmth import Warmth
from stepcredit.training.trainer import TrainingLoop

SECONDS = 300.0
"""Time limit of two processes."""


def kill(_: Any = None) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _hang(_: Any) -> None:
    Event().wait(4)


SECOND = range(2, 3)
"""Calls in epoch 2 of what an epoch calls once, and of rewards on rank 1. Rank 0 also scores grids."""
FAULTS: dict[str, Injection] = {
    "nothing": nullcontext,
    "killed in sampling": lambda: at_calls(TrainingLoop, "rollout", SECOND, kill),
    "killed in an update": lambda: at_calls(torch.nn.utils, "clip_grad_norm_", range(3, 4), kill),
    "killed before the metrics": lambda: at_calls(TrainingLoop, "update", SECOND, kill),
    "reward raises": lambda: at_calls(Warmth, "__call__", SECOND, raising(OSError("down"))),
    "reward hangs": lambda: at_calls(Warmth, "__call__", SECOND, _hang),
    "out of memory": lambda: at_calls(ToyPolicy, "replay", range(26, 27), raising(CPU)),
    "out of memory, shared out": lambda: at_calls(PipelinePolicy, "replay", range(13, 14), raising(CPU)),
    "disk full": lambda: failing_fsync("epoch_0002/state", FULL),
    "a bug": lambda: at_calls(TrainingLoop, "update", SECOND, raising(RuntimeError("a bug"))),
    "NaN": lambda: at_calls(torch.nn.utils, "clip_grad_norm_", range(3, 4), lambda norm: norm * torch.nan),
}


@dataclass(frozen=True)
class Ended:
    code: int
    out: str
    err: str


def run(arguments: list[str], folder: str, toy: bool, rank: int, port: int, fault: str, told: str) -> None:
    """One of the two processes, with the environment that a launcher sets."""
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", LOCAL_WORLD_SIZE="2", MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port), OMP_NUM_THREADS="1",
    )  # fmt: skip
    with FAULTS[fault]():
        try:
            victim.run(arguments, folder, toy, moment=None, told=told)
        finally:
            sys.stdout.flush()


class Pair:
    """Runs of `arguments` on two processes in `folder`: `whole`, without a fault, and others."""

    def __init__(self, folder: Path, arguments: list[str], toy: bool = True) -> None:
        self.folder, self.arguments, self.toy = folder, arguments, toy
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["tests.faults.pair"])
        assert [ended.code for ended in self.start("whole")] == [0, 0]

    def start(
        self, name: str, fault: str = "nothing", rank: int = 0, resume: bool = False, overrides: Sequence[str] = ()
    ) -> list[Ended]:
        """Train or resume the run `name`, with the fault on `rank`."""
        words = (
            ["train", "--resume", "--run", name, *overrides] if resume else ["train", *self.arguments, "--run", name]
        )
        port, told = free_port(), [str(self.folder / f"told-{name}-{each}") for each in range(2)]
        faults = [fault if each == rank else "nothing" for each in range(2)]
        target: Callable[..., None] = run
        children = [
            self._context.Process(target=target, args=(words, str(self.folder), self.toy, each, port, *own))
            for each, own in enumerate(zip(faults, told, strict=True))
        ]
        for child in children:
            child.start()
        deadline = time.monotonic() + SECONDS
        for child in children:
            child.join(max(0.0, deadline - time.monotonic()))
        late = [child for child in children if child.exitcode is None]
        for child in late:
            child.kill()
            child.join()
        texts = [[Path(f"{place}.{kind}").read_text() for kind in ("out", "err")] for place in told]
        assert not late, (f"{len(late)} did not end within {SECONDS:g} s", texts)
        return [Ended(int(child.exitcode or 0), *text) for child, text in zip(children, texts, strict=True)]
