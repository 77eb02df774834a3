"""Compute the ratios, the agreement and the tables of `against_trl.py` from the reports of its runners."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np

Report = dict[str, Any]
Pair = dict[str, Report]

OURS, THEIRS = "stepcredit", "TRL"
TARGETS = {"sampling CPU": 1 / 1.6, "training CPU": 1 / 3, "peak memory": 0.8}
"""Largest acceptable median over pairs of the ratio stepcredit / TRL."""
REWARD_TOLERANCE = 0.01
"""Tolerance of the mean |difference| of rewards, in standard deviations. Pixels may be rounded differently."""
NORM_TOLERANCE = 1e-3
"""Tolerance of the relative difference of gradient norms."""


def seconds(report: Report, phase: str, clock: str) -> float:
    """Mean seconds of a phase per epoch, without the first epoch if there are more."""
    epochs = report["phases"][phase]
    return statistics.mean(epoch[clock] for epoch in epochs[1:] or epochs)


def summary(report: Report) -> str:
    """One line about a run."""
    phases = [
        f"{phase} {seconds(report, phase, 'cpu'):.2f} CPU-s ({seconds(report, phase, 'wall'):.2f} s)"
        for phase in ("sampling", "training")
    ]
    return f"{', '.join(phases)}, {report['resident_peak'] / 1e6:.0f} MB, matrix rate {report['rate']:.0f} GFLOP/s"


def figures(report: Report) -> dict[str, float]:
    """The figures that are compared."""
    return {
        **{
            f"{phase} {name}": seconds(report, phase, clock)
            for phase in ("sampling", "training")
            for name, clock in (("CPU", "cpu"), ("wall", "wall"))
        },
        "peak memory": report["resident_peak"],
        "memory of the run": report["resident_peak"] - report["resident_before"],
    }


def ratios(pairs: Sequence[Pair]) -> dict[str, list[float]]:
    """The ratio stepcredit / TRL of each figure, one per pair."""
    both = [(figures(pair[OURS]), figures(pair[THEIRS])) for pair in pairs]
    return {name: [ours[name] / theirs[name] for ours, theirs in both] for name in both[0][0]}


def ratio_table(values: dict[str, list[float]]) -> list[str]:
    lines = [f"{'stepcredit / TRL':<18}{'min':>7}{'median':>8}{'max':>7}  pairs"]
    for name, pairs in values.items():
        middle = statistics.median(pairs)
        each = " ".join(f"{value:.3f}" for value in pairs)
        line = f"{name:<18}{min(pairs):>7.3f}{middle:>8.3f}{max(pairs):>7.3f}  {each}"
        if name in TARGETS:
            line += f"  target {TARGETS[name]:.3f}: {'met' if middle <= TARGETS[name] else 'missed'}"
        lines.append(line)
    return lines


def cost_table(pairs: Sequence[Pair], gflop: dict[str, float], images: int) -> list[str]:
    """Medians over pairs for each system. The utilization uses the matrix rate measured around each run."""
    lines = []
    for system in (OURS, THEIRS):
        reports = [pair[system] for pair in pairs]
        for phase in ("sampling", "training"):
            cpu, wall = (
                statistics.median(seconds(report, phase, clock) for report in reports) for clock in ("cpu", "wall")
            )
            utilization = statistics.median(
                gflop[phase] / seconds(report, phase, "cpu") / report["rate"] for report in reports
            )
            lines.append(
                f"{system:<11}{phase:<10}{cpu:7.2f} CPU-s {wall:7.2f} s per epoch, {1000 * cpu / images:6.1f} CPU-ms "
                f"per query, {utilization:4.0%} of the matrix rate"
            )
        peak, start = (
            statistics.median(report[name] for report in reports) / 1e6 for name in ("resident_peak", "resident_before")
        )
        lines.append(f"{system:<11}memory    {peak:7.0f} MB at the peak, {start:.0f} MB before the first epoch")
    return lines


def reward_difference(ours: Report, theirs: Report) -> float:
    """Mean |difference| of the rewards of the first epoch, in standard deviations."""
    left, right = np.array(ours["rewards"][0]), np.array(theirs["rewards"][0])
    return float(np.abs(left - right).mean() / right.std())


def norm_differences(ours: Report, theirs: Report, updates: int) -> list[float]:
    """Relative differences of the gradient norms of all updates of the first epoch."""
    both = zip(ours["grad_norms"][:updates], theirs["grad_norms"][:updates], strict=True)
    return [abs(left - right) / right for left, right in both]


def agrees(ours: Report, theirs: Report, updates: int) -> bool:
    """Whether rewards and gradient norms of the first epoch agree within the tolerances."""
    norms = norm_differences(ours, theirs, updates)
    return reward_difference(ours, theirs) <= REWARD_TOLERANCE and max(norms) <= NORM_TOLERANCE


def agreement_table(pair: Pair, updates: int) -> list[str]:
    ours, theirs = pair[OURS], pair[THEIRS]
    lines = [f"first epoch: rewards differ by {reward_difference(ours, theirs):.1e} of their standard deviation"]
    for system in (OURS, THEIRS):
        norms = " ".join(f"{norm:.7f}" for norm in pair[system]["grad_norms"][:updates])
        lines.append(f"first epoch: gradient norms of {system + ':':<11} {norms}")
    differences = " ".join(f"{difference:.1e}" for difference in norm_differences(ours, theirs, updates))
    return [*lines, f"first epoch: relative difference:           {differences}"]
