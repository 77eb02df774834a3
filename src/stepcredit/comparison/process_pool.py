"""Gets runs done: each a process of its own with one thread, so many at a time, each on its device."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from stepcredit.comparison.cells import Cell
from stepcredit.comparison.directory import ComparisonDirectory
from stepcredit.comparison.progress import Display
from stepcredit.comparison.protocol import Protocol
from stepcredit.config import TrainConfig
from stepcredit.errors import shortened
from stepcredit.runs import checkpoint, recipes
from stepcredit.utils.signals import finished_first

TRAIN = (sys.executable, "-m", "stepcredit", "train")
POLL_SECONDS = 0.1
GRACE_SECONDS = 30.0
"""How long a run may take to write its checkpoint when it is told to stop."""


@dataclass(frozen=True)
class Failure:
    """A run that did not end well.

    Attributes:
        line: the last that it printed.
    """

    cell: Cell
    code: int
    line: str

    def __str__(self) -> str:
        return f"{self.cell.name} failed (exit {self.code}): {self.line}"


@dataclass(frozen=True)
class _Running:
    cell: Cell
    process: subprocess.Popen[bytes]
    slot: int


class Runner:
    """Runs cells in `directory`; a context manager that leaves no process behind.

    Args:
        slots: the environment of each run at a time.
        descriptors: of files that every run inherits.
        command: what trains: it takes a recipe, `--run DIR` and `--resume`.
    """

    def __init__(
        self,
        directory: ComparisonDirectory,
        protocol: Protocol,
        slots: Sequence[Mapping[str, str]],
        display: Display,
        descriptors: Sequence[int] = (),
        command: Sequence[str] = TRAIN,
    ) -> None:
        self._directory = directory
        self._protocol = protocol
        self._slots = slots
        self._display = display
        self._descriptors = descriptors
        self._command = command
        self._running: list[_Running] = []

    def __enter__(self) -> Runner:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def __call__(self, cells: Sequence[Cell]) -> list[Failure]:
        """Finish every run that is not; one that fails keeps none from going on. Returns those that failed."""
        waiting = deque(cell for cell in cells if not self._directory.finished(cell))
        self._display.already([self._epochs(cell) for cell in cells if self._directory.finished(cell)])
        failures: list[Failure] = []
        while waiting or self._running:
            free = [slot for slot in range(len(self._slots)) if slot not in {one.slot for one in self._running}]
            for slot in free[: len(waiting)]:
                with finished_first(at_any_rate=True):  # or a process would be left that nobody knows of
                    self._running.append(self._start(waiting.popleft(), slot))
            time.sleep(POLL_SECONDS)
            for one in [one for one in self._running if one.process.poll() is not None]:
                self._running.remove(one)
                failures += self._ended(one)
            self._display.running({one.cell: self._epochs(one.cell) for one in self._running})
        return failures

    def stop(self) -> None:
        """End what still runs: asked first, which leaves a checkpoint, then killed."""
        for one in self._running:
            _signal(one.process, signal.SIGTERM)
        deadline = time.monotonic() + GRACE_SECONDS
        try:
            for one in self._running:
                with suppress(subprocess.TimeoutExpired):  # it is killed below
                    one.process.wait(max(deadline - time.monotonic(), 0))
        finally:
            for one in self._running:
                _signal(one.process, signal.SIGKILL)
                one.process.wait()
            self._running.clear()

    def _start(self, cell: Cell, slot: int) -> _Running:
        """A new process. A run that was stopped goes on; one that had not begun to learn begins anew."""
        run, recipe = self._directory.run(cell), self._directory.recipe(cell)
        begun = bool(checkpoint.folders(run / "checkpoints"))
        if not begun:
            shutil.rmtree(run, ignore_errors=True)
        recipe.parent.mkdir(parents=True, exist_ok=True)
        recipe.write_text(recipes.dump(cell.config(self._protocol)), encoding="utf-8")
        arguments = [str(recipe), "--run", str(run), *(["--resume"] if begun else [])]
        with self._directory.log(cell).open("wb") as log:
            process = subprocess.Popen(
                [*self._command, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **self._slots[slot]},
                pass_fds=self._descriptors,
                start_new_session=True,  # a Ctrl-C at the terminal is ours to pass on
            )
        return _Running(cell, process, slot)

    def _ended(self, one: _Running) -> list[Failure]:
        code = one.process.returncode
        if code == 0:
            self._directory.mark_finished(one.cell)
            self._display.finished(one.cell, self._epochs(one.cell))
            return []
        failure = Failure(one.cell, code, _last_line(self._directory.log(one.cell)))
        self._display.note(str(failure))
        return [failure]

    def _epochs(self, cell: Cell) -> int:
        """How many epochs a run has recorded."""
        with suppress(OSError):  # none yet
            return (self._directory.run(cell) / "metrics.jsonl").read_bytes().count(b"\n")
        return 0


def slots(config: TrainConfig, jobs: int | None) -> list[dict[str, str]]:
    """The environment of each run at a time: one thread, and where there are CUDA devices, one of them in turn.

    Args:
        jobs: how many; None is one per CUDA device if the runs use them, else one per core.
    """
    devices = _devices(config)
    single = {"OMP_NUM_THREADS": "1"}
    return [
        {**single, "CUDA_VISIBLE_DEVICES": devices[number % len(devices)]} if devices else single
        for number in range(jobs or len(devices) or cores())
    ]


def cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _devices(config: TrainConfig) -> list[str]:
    """What CUDA_VISIBLE_DEVICES calls the devices that runs may be spread over; none where a run names its own."""
    if config.model.device not in ("auto", "cuda"):
        return []
    import torch

    count = torch.cuda.device_count()
    named = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    return named[:count] if len(named) >= count and named[0] else [str(number) for number in range(count)]


def _signal(process: subprocess.Popen[bytes], number: int) -> None:
    """To the run and whatever it started, unless it is over."""
    if process.poll() is None:
        with suppress(ProcessLookupError):  # it ended meanwhile
            os.killpg(process.pid, number)


def _last_line(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines()]
    last = next((line for line in reversed(lines) if line), "it printed nothing")
    return shortened(last.removeprefix("stepcredit: "), 300)
