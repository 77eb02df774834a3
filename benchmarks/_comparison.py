"""The figures of `against_trl.py`, from the reports of its runners: ratios, agreement, tables."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np

Report = dict[str, Any]
Pair = dict[str, Report]

OURS, THEIRS = "stepcredit", "TRL"
TARGETS = {"sampling CPU": 1 / 1.6, "training CPU": 1 / 3, "peak memory": 0.8}
"""Ours over TRL's, at most, in the median over pairs."""
REWARD_TOLERANCE = 0.01
"""Of the mean |difference| of rewards, in their standard deviations: a pixel may round the other way."""
NORM_TOLERANCE = 1e-3
"""Of the relative difference of a gradient norm."""


def seconds(report: Report, phase: str, clock: str) -> float:
    """Mean seconds of a phase an epoch, the first epoch left out if there are others."""
    epochs = report["phases"][phase]
    return statistics.mean(epoch[clock] for epoch in epochs[1:] or epochs)


def brief(report: Report) -> str:
    """A run in one line."""
    phases = [
        f"{phase} {seconds(report, phase, 'cpu'):.2f} CPU-s ({seconds(report, phase, 'wall'):.2f} s)"
        for phase in ("sampling", "training")
    ]
    return f"{', '.join(phases)}, {report['resident_peak'] / 1e6:.0f} MB, beside {report['rate']:.0f} GFLOP/s"


def figures(report: Report) -> dict[str, float]:
    """What is compared."""
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
    """Ours over TRL's by figure, one number a pair."""
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
    """Medians over pairs of each system; the achieved fraction takes each run's own matrix rate."""
    lines = []
    for system in (OURS, THEIRS):
        reports = [pair[system] for pair in pairs]
        for phase in ("sampling", "training"):
            cpu, wall = (
                statistics.median(seconds(report, phase, clock) for report in reports) for clock in ("cpu", "wall")
            )
            part = statistics.median(
                gflop[phase] / seconds(report, phase, "cpu") / report["rate"] for report in reports
            )
            lines.append(
                f"{system:<11}{phase:<10}{cpu:7.2f} CPU-s {wall:7.2f} s an epoch, {1000 * cpu / images:6.1f} CPU-ms a "
                f"query, {part:4.0%} of the matrix rate"
            )
        peak, start = (
            statistics.median(report[name] for report in reports) / 1e6 for name in ("resident_peak", "resident_before")
        )
        lines.append(f"{system:<11}memory    {peak:7.0f} MB at its peak, {start:.0f} MB before the first epoch")
    return lines


def reward_difference(ours: Report, theirs: Report) -> float:
    """Mean |difference| of the rewards of the first epoch, in their standard deviations."""
    here, there = np.array(ours["rewards"][0]), np.array(theirs["rewards"][0])
    return float(np.abs(here - there).mean() / there.std())


def norm_differences(ours: Report, theirs: Report, updates: int) -> list[float]:
    """Relative difference of the gradient norm of every update of the first epoch."""
    both = zip(ours["grad_norms"][:updates], theirs["grad_norms"][:updates], strict=True)
    return [abs(here - there) / there for here, there in both]


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
    apart = " ".join(f"{difference:.1e}" for difference in norm_differences(ours, theirs, updates))
    return [*lines, f"first epoch: relative difference:           {apart}"]
