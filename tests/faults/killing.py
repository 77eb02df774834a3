"""Runs that are killed and go on until they are done, each process forked from one that has everything imported."""

from __future__ import annotations

import json
import multiprocessing
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tests.cli.command_line import newest_checkpoint, rows, tree
from tests.faults.victim import SIGNALS, Moment, run

from stepcredit.runs import checkpoint

TOY_POLICY = "toy policy"
SECONDS = 300.0
"""How long a process may take."""


@dataclass(frozen=True)
class Ended:
    """How one process ended.

    Attributes:
        hit: what its watch has written down, None if the moment never came.
    """

    code: int
    out: str
    err: str
    hit: dict[str, Any] | None


class Harness:
    """Runs of one configuration in `folder`: one that is never stopped, and others to compare with it."""

    def __init__(self, folder: Path, arguments: list[str], policy: str) -> None:
        self.folder, self.arguments, self.policy, self.toy = folder, arguments, policy, policy == TOY_POLICY
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["tests.faults.victim"])
        ended = self.process("whole", None)
        assert (ended.code, ended.err) == (0, ""), ended
        self._events: dict[tuple[str, int], int] = {}

    def process(self, name: str, moment: Moment | None) -> Ended:
        """Train or resume the run `name`, as a user would who finds its folder; a signal is sent at the moment."""
        path, told = self.folder / name, self.folder / f"told-{name}"
        for suffix in ("out", "err", "json"):
            told.with_suffix(f".{suffix}").unlink(missing_ok=True)
        begun = bool(checkpoint.folders(path / "checkpoints"))
        if not begun:
            shutil.rmtree(path, ignore_errors=True)
        words = ["train", *self.arguments, "--run", name, *(["--resume"] if begun else [])]
        child = self._context.Process(target=run, args=(words, str(self.folder), self.toy, moment, str(told)))
        child.start()
        child.join(SECONDS)
        assert child.exitcode is not None, f"{name} did not end within {SECONDS:g} s"
        hit = told.with_suffix(".json")
        return Ended(
            child.exitcode,
            told.with_suffix(".out").read_text(),
            told.with_suffix(".err").read_text(),
            json.loads(hit.read_text()) if hit.exists() else None,
        )

    def events(self, phase: str, visit: int) -> int:
        """How many calls and returns there are in a phase of a run that goes from the beginning."""
        if (phase, visit) not in self._events:
            ended = self.process("counted", Moment(phase, visit, 0, 0))
            assert ended.code == 0 and ended.hit is not None, ended
            self._events[phase, visit] = ended.hit["events"]
            shutil.rmtree(self.folder / "counted")
        return self._events[phase, visit]

    def random_moment(self, rng: np.random.Generator, phase: str, number: int, again: bool = False) -> Moment:
        """In one of the first two epochs, before which come the first rewards and checkpoint, or at the end."""
        visit = 1 if phase in ("export", "report") else int(rng.integers(1, 3)) + (phase in ("reward", "checkpoint"))
        return Moment(phase, visit, int(rng.integers(1, self.events(phase, visit) + 1)), number, again)

    def compare(self, name: str) -> None:
        assert_same_run(self.folder / name, self.folder / "whole")


def assert_same_run(ours: Path, whole: Path) -> None:
    """Nothing of a run tells that it was stopped: weights, optimizer, metrics, pictures are those of the other."""
    assert rows(ours) == rows(whole)
    assert newest_checkpoint(ours) == newest_checkpoint(whole)
    for folder in ("samples", "lora", "unet"):  # one of the last two
        assert tree(ours / folder) == tree(whole / folder)
    assert (ours / "config.yaml").read_bytes() == (whole / "config.yaml").read_bytes()
    assert hidden(ours) == []


def hidden(path: Path) -> list[str]:
    """Files and folders that were not finished."""
    return sorted(str(found.relative_to(path)) for found in path.rglob(".*"))


def lost(path: Path, hit: dict[str, Any]) -> int:
    """Epochs that were begun and have to be done again; every checkpoint that is there must be sound."""
    kept = [checkpoint.load(folder).epoch for folder in checkpoint.folders(path / "checkpoints")]
    return int(hit["begun"]) - max(kept, default=0)


__all__ = ["SIGNALS", "Ended", "Harness", "assert_same_run", "hidden", "lost"]
