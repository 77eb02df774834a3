"""What the two runners of `against_trl.py` share: the order they are given, and how they measure. Needs only torch."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch


class Measured:
    """CPU-seconds and wall-seconds of phases by epoch, rewards by epoch, and the gradient norm of every update."""

    def __init__(self) -> None:
        self.phases: dict[str, list[dict[str, float]]] = {"sampling": [], "training": []}
        self.rewards: list[list[float]] = []
        self.grad_norms: list[float] = []
        self.resident_before = peak_resident_bytes()

    def timed(self, phase: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """`call`, with its seconds noted as those of one epoch."""

        def measured(*arguments: Any, **named: Any) -> Any:
            wall, cpu = time.perf_counter(), time.process_time()
            value = call(*arguments, **named)
            seconds = {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall}
            self.phases[phase].append(seconds)
            return value

        return measured

    def watch_norms(self) -> None:
        """Note what `torch.nn.utils.clip_grad_norm_`, which both systems call, finds before it clips."""
        own = torch.nn.utils.clip_grad_norm_

        def noted(*arguments: Any, **named: Any) -> torch.Tensor:
            norm = own(*arguments, **named)
            self.grad_norms.append(float(norm))
            return norm

        torch.nn.utils.clip_grad_norm_ = noted

    def write(self, path: Path) -> None:
        report = {
            "phases": self.phases,
            "rewards": self.rewards,
            "grad_norms": self.grad_norms,
            "resident_before": self.resident_before,
            "resident_peak": peak_resident_bytes(),
        }
        path.write_text(json.dumps(report), encoding="utf-8")


def read_order() -> tuple[dict[str, Any], Path]:
    """(what to run, where the report goes), from the command line of a runner."""
    order, report = sys.argv[1:]
    return json.loads(Path(order).read_text(encoding="utf-8")), Path(report)


def peak_resident_bytes() -> int:
    """Of this process since it was started; getrusage would count what its parent held when it forked."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise SystemExit("/proc/self/status has no VmHWM: peak memory can be measured on Linux only")
