"""A run in a process of its own that sends itself a signal at an exact moment.

A moment is the n-th call or return of any function, Python's or C's, in a phase of an epoch: random n are random
places, and the same ones every time. No test has to sleep and hope.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import tensorboard.compat.proto.event_pb2
import tensorboard.summary.writer.record_writer  # noqa: F401  # imported once, before the fork
import torch
from tests.toy_policy import ToyPolicy

import stepcredit.policy.loading
from stepcredit.cli.main import main
from stepcredit.config import TrainConfig
from stepcredit.rewards.core.checked import CheckedReward
from stepcredit.runs import checkpoint
from stepcredit.training import run
from stepcredit.training.trainer import TrainingLoop

torch.set_num_threads(1)
_METHODS: dict[str, tuple[Any, str]] = {
    "sampling": (TrainingLoop, "sample"),
    "reward": (CheckedReward, "scores"),
    "credit": (TrainingLoop, "spread"),
    "update": (TrainingLoop, "update"),
    "metrics": (TrainingLoop, "record"),
    "checkpoint": (checkpoint, "save"),
    "grid": (TrainingLoop, "evaluate"),
    "export": (TrainingLoop, "_export"),
    "report": (run, "write_report"),
}
PHASES = tuple(_METHODS)
_BETWEEN = ("metrics", "checkpoint", "grid", "export", "report")
"""Phases in which no epoch is in work, or its count is up already."""


@dataclass(frozen=True)
class Moment:
    """When to send a signal.

    Attributes:
        phase: one of PHASES.
        visit: the how manieth time that the phase is entered in the process, from 1.
        event: the how manieth call or return inside; 0 is never, and all are counted.
        number: the signal.
        again: whether to send it a second time, at the tenth event after it.
    """

    phase: str
    visit: int
    event: int
    number: int
    again: bool = False


def run(arguments: list[str], folder: str, toy: bool, moment: Moment | None, told: str) -> None:
    """`stepcredit arguments...` in `folder`; prints go to `told`.out and .err, what was hit to `told`.json."""
    os.chdir(folder)
    for stream, name in ((sys.stdout, "out"), (sys.stderr, "err")):
        descriptor = os.open(f"{told}.{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(descriptor, stream.fileno())
    if toy:
        _use_toys()
    if moment is not None:
        _Watch(moment, Path(f"{told}.json")).install()
    sys.exit(main(arguments))


def _use_toys() -> None:
    def load_policy(config: TrainConfig, **_: bool) -> ToyPolicy:
        return ToyPolicy(config.sample.steps)

    stepcredit.policy.loading.load_policy = load_policy
    stepcredit.policy.loading.make_policy = lambda pipeline, config, **_: load_policy(config)


class _Watch:
    """Counts events in a phase and sends the signal at the right one; writes down what it has seen."""

    def __init__(self, moment: Moment, path: Path) -> None:
        self.moment, self.path = moment, path
        self.visits = self.events = self.total = 0
        self.trainer: TrainingLoop | None = None

    def install(self) -> None:
        owner, name = _METHODS[self.moment.phase]
        original = getattr(owner, name)

        def watched(*arguments: Any, **named: Any) -> Any:
            with self._inside():
                return original(*arguments, **named)

        setattr(owner, name, watched)
        start = run._train

        def remember(trainer: TrainingLoop) -> None:
            self.trainer = trainer
            start(trainer)

        run._train = remember

    @contextmanager
    def _inside(self) -> Iterator[None]:
        self.visits += 1
        self.events = 0
        if self.visits == self.moment.visit:
            sys.setprofile(self._event)
        try:
            yield
        finally:
            if self.visits == self.moment.visit:
                sys.setprofile(None)
                if not self.moment.event:
                    self._write(self.events)

    def _event(self, *_: object) -> None:
        self.events += 1
        if self.events == self.moment.event:
            self._write(self.events)
            os.kill(os.getpid(), self.moment.number)
        elif self.moment.again and self.events == self.moment.event + 10:
            sys.setprofile(None)
            os.kill(os.getpid(), self.moment.number)

    def _write(self, events: int) -> None:
        """`begun`: how many epochs had been begun."""
        assert self.trainer is not None
        finished = self.trainer.finished_epochs
        begun = finished if self.moment.phase in _BETWEEN else finished + 1
        self.path.write_text(json.dumps({**asdict(self.moment), "events": events, "begun": begun}))


Run = Callable[..., None]
SIGNALS = {"SIGINT": signal.SIGINT, "SIGTERM": signal.SIGTERM, "SIGKILL": signal.SIGKILL}
