"""A run in its own process that sends itself a signal at an exact moment.

A moment is the n-th call or return of any function, Python's or C's, in a phase of an epoch. Random n are random but
reproducible places, and no test has to sleep.
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

import torch
import torch.utils.tensorboard  # imported once, before the fork
from tests.toy_policy import ToyPolicy

import stepcredit.policy.loading
from stepcredit.cli.main import main
from stepcredit.config import TrainConfig
from stepcredit.rewards.core.checked import CheckedReward
from stepcredit.runs import checkpoint
from stepcredit.training import run as training_run
from stepcredit.training.trainer import TrainingLoop

torch.set_num_threads(1)
_METHODS: dict[str, tuple[Any, str]] = {
    "sampling": (TrainingLoop, "rollout"),
    "reward": (CheckedReward, "scores"),
    "credit": (TrainingLoop, "credit"),
    "update": (TrainingLoop, "update"),
    "metrics": (TrainingLoop, "record"),
    "checkpoint": (checkpoint, "save"),
    "grid": (TrainingLoop, "evaluate"),
    "export": (TrainingLoop, "_export"),
    "report": (training_run, "write_report"),
}
PHASES = tuple(_METHODS)
_BETWEEN = ("metrics", "checkpoint", "grid", "export", "report")
"""Phases in which the epoch is already counted as finished."""


@dataclass(frozen=True)
class Moment:
    """When to send a signal.

    Attributes:
        phase: one of PHASES.
        visit: which entry into the phase counts, from 1.
        event: number of the call or return inside. With 0 no signal is sent and all events are counted.
        number: the signal.
        again: whether to send it again ten events later.
    """

    phase: str
    visit: int
    event: int
    number: int
    again: bool = False


def run(arguments: list[str], folder: str, toy: bool, moment: Moment | None, told: str) -> None:
    """`stepcredit arguments...` in `folder`. Writes its output to `told`.out and .err and the moment to `told`.json."""
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
    """Counts events in a phase, sends the signal at the right one and writes the count to a file."""

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
        start = training_run._train

        def remember(trainer: TrainingLoop) -> Any:
            self.trainer = trainer
            return start(trainer)

        training_run._train = remember

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
        """Write the count. `begun` is the number of epochs that were begun."""
        assert self.trainer is not None
        finished = self.trainer.finished_epochs
        begun = finished if self.moment.phase in _BETWEEN else finished + 1
        self.path.write_text(json.dumps({**asdict(self.moment), "events": events, "begun": begun}))


Run = Callable[..., None]
SIGNALS = {"SIGINT": signal.SIGINT, "SIGTERM": signal.SIGTERM, "SIGKILL": signal.SIGKILL}
