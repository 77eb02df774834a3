"""Measure epochs in both runners of `against_trl.py`. Needs only torch, so that it runs without stepcredit."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch


class Measured:
    """CPU seconds and wall seconds of each phase and epoch, rewards of each epoch, gradient norms of each update."""

    def __init__(self) -> None:
        self.phases: dict[str, list[dict[str, float]]] = {"sampling": [], "training": []}
        self.rewards: list[list[float]] = []
        self.grad_norms: list[float] = []
        self.resident_before = peak_resident_bytes()

    def timed(self, phase: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap `call` so that each call is recorded as one epoch of `phase`."""

        def measured(*arguments: Any, **named: Any) -> Any:
            wall, cpu = time.perf_counter(), time.process_time()
            value = call(*arguments, **named)
            seconds = {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall}
            self.phases[phase].append(seconds)
            return value

        return measured

    def watch_norms(self) -> None:
        """Record the norms that `torch.nn.utils.clip_grad_norm_` returns. Both systems call it."""
        original = torch.nn.utils.clip_grad_norm_

        def recorded(*arguments: Any, **named: Any) -> torch.Tensor:
            norm = original(*arguments, **named)
            self.grad_norms.append(float(norm))
            return norm

        torch.nn.utils.clip_grad_norm_ = recorded

    def write(self, path: Path) -> None:
        report = {
            "phases": self.phases,
            "rewards": self.rewards,
            "grad_norms": self.grad_norms,
            "resident_before": self.resident_before,
            "resident_peak": peak_resident_bytes(),
        }
        path.write_text(json.dumps(report), encoding="utf-8")


def read_job() -> tuple[dict[str, Any], Path]:
    """The job and the path of the report, from the command line of a runner."""
    job, report = sys.argv[1:]
    return json.loads(Path(job).read_text(encoding="utf-8")), Path(report)


def peak_resident_bytes() -> int:
    """Peak resident memory of this process. getrusage would include the memory of the parent at the fork."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise SystemExit("/proc/self/status has no VmHWM: peak memory can only be measured on Linux")
