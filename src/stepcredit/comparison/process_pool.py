"""Execute jobs as processes: a fixed number at a time, one thread each, on the CUDA devices in turn."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from stepcredit.comparison.jobs import Job
from stepcredit.comparison.progress import Progress
from stepcredit.config import TrainConfig
from stepcredit.distributed.launcher import without_launch
from stepcredit.errors import shortened
from stepcredit.utils.signals import finished_first

POLL_SECONDS = 0.1
GRACE_SECONDS = 30.0
"""How long a run may take to write its checkpoint after SIGTERM."""


@dataclass(frozen=True)
class Failure:
    """A process that exited with an error.

    Attributes:
        name: of the job.
        line: the last line that it printed.
    """

    name: str
    code: int
    line: str

    def __str__(self) -> str:
        return f"{self.name} failed (exit {self.code}): {self.line}"


@dataclass(frozen=True)
class _Running:
    job: Job
    process: subprocess.Popen[bytes]
    slot: int


class ProcessPool:
    """Executes jobs. A context manager that leaves no process behind.

    Args:
        slots: environment variables for each of the processes that run at the same time.
        progress: is notified of every job.
        descriptors: file descriptors that every process inherits.
    """

    def __init__(self, slots: Sequence[Mapping[str, str]], progress: Progress, descriptors: Sequence[int] = ()) -> None:
        self._slots = slots
        self._progress = progress
        self._descriptors = descriptors
        self._running: list[_Running] = []

    def __enter__(self) -> ProcessPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def run(self, jobs: Sequence[Job]) -> list[Failure]:
        """Execute all jobs that are not finished, and return those that failed. A failure does not stop the others."""
        before = [job.finished() for job in jobs]
        waiting = deque(job for job, finished in zip(jobs, before, strict=True) if not finished)
        self._progress.already_finished([job.epochs() for job, finished in zip(jobs, before, strict=True) if finished])
        failures: list[Failure] = []
        while waiting or self._running:
            busy = {running.slot for running in self._running}
            free = [slot for slot in range(len(self._slots)) if slot not in busy]
            for slot in free[: len(waiting)]:
                # A signal between the start of the process and the append would orphan it.
                with finished_first(delay_all=True):
                    self._running.append(self._start(waiting.popleft(), slot))
            time.sleep(POLL_SECONDS)
            for running in [running for running in self._running if running.process.poll() is not None]:
                self._running.remove(running)
                failures += self._ended(running)
            self._progress.running({running.job.name: running.job.epochs() for running in self._running})
        return failures

    def stop(self) -> None:
        """Send SIGTERM to all running processes, which makes them write a checkpoint, then SIGKILL."""
        for running in self._running:
            _signal(running.process, signal.SIGTERM)
        deadline = time.monotonic() + GRACE_SECONDS
        try:
            for running in self._running:
                with suppress(subprocess.TimeoutExpired):  # killed below
                    running.process.wait(max(deadline - time.monotonic(), 0))
        finally:
            for running in self._running:
                _signal(running.process, signal.SIGKILL)
                running.process.wait()
            self._running.clear()

    def _start(self, job: Job, slot: int) -> _Running:
        command = job.command()
        job.log.parent.mkdir(parents=True, exist_ok=True)
        with job.log.open("wb") as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**without_launch(os.environ), **self._slots[slot]},
                pass_fds=self._descriptors,
                start_new_session=True,  # Ctrl-C at the terminal reaches only this process, which passes it on
            )
        return _Running(job, process, slot)

    def _ended(self, running: _Running) -> list[Failure]:
        job, code = running.job, running.process.returncode
        if code == 0:
            job.mark_finished()
            self._progress.finished(job.name, job.epochs())
            return []
        failure = Failure(job.name, code, _last_line(job.log))
        self._progress.note(str(failure))
        return [failure]


def slots(config: TrainConfig, jobs: int | None) -> list[dict[str, str]]:
    """Environment variables for each of the runs that run at the same time.

    Each run gets one thread. If there are CUDA devices and the configuration does not name one, the runs use them in
    turn.

    Args:
        jobs: runs at a time; None is one per CUDA device if the runs use them, otherwise one per core.
    """
    devices = _devices(config)
    single = {"OMP_NUM_THREADS": "1"}
    return [
        {**single, "CUDA_VISIBLE_DEVICES": devices[number % len(devices)]} if devices else single
        for number in range(jobs or len(devices) or cores())
    ]


def cores() -> int:
    """The number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _devices(config: TrainConfig) -> list[str]:
    """The CUDA devices to use in turn, as in CUDA_VISIBLE_DEVICES; none if the configuration names one device."""
    if config.model.device not in ("auto", "cuda"):
        return []
    import torch

    count = torch.cuda.device_count()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    return visible[:count] if len(visible) >= count and visible[0] else [str(number) for number in range(count)]


def _signal(process: subprocess.Popen[bytes], number: int) -> None:
    """Send a signal to the run and its child processes, unless it has ended."""
    if process.poll() is None:
        with suppress(ProcessLookupError):  # it ended in the meantime
            os.killpg(process.pid, number)


def _last_line(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines()]
    last = next((line for line in reversed(lines) if line), "it printed nothing")
    return shortened(last.removeprefix("stepcredit: "), 300)
