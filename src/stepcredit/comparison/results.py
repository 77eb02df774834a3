"""What finished runs amount to, as plain data that JSON holds. Whatever a clock decides has `seconds` in its key."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import torch

from stepcredit.comparison.cells import Cell
from stepcredit.comparison.curves import Curve
from stepcredit.comparison.estimates import difference, mean, median_factor
from stepcredit.comparison.learning_rates import Choices
from stepcredit.comparison.protocol import Protocol
from stepcredit.stats.intervals import LEVEL, RESAMPLES
from stepcredit.stats.power import POWER, detectable_difference

FEWEST = 3
"""Seeds from which the spread of a difference is guessed at."""
METHOD = {
    "rewards": (
        "mean reward of an epoch's training images, which are drawn before its update; curves are trailing means over "
        "as many epochs as the criterion has"
    ),
    "uncertainty": (
        f"{LEVEL:.0%} percentile bootstrap over the fresh seeds, {RESAMPLES} resamples; differences and factors are "
        "paired by seed"
    ),
    "detectable": (
        f"the difference of final rewards that a paired t-test at {LEVEL:.0%} would see with a probability of "
        f"{POWER:.0%} on as many seeds, at the median spread of all pairs of arms"
    ),
    "queries_to_reference": (
        "reward queries after which an arm's curve first is at the final reward of the reference with the same seed, "
        "on straight lines between epochs; the reference itself may be there before its end"
    ),
    "factor": "the reference's queries to its own final reward over the arm's; an arm that is never there counts as 0",
    "watched_at_reference": (
        "trailing mean of the watched reward on the training images at that point; seeds that never are there are left "
        "out"
    ),
    "seconds": (
        "sampling, scoring, credit and training of one process with one thread, without start-up, grids and "
        "checkpoints; processes at work at the same time share cores, caches and memory, so seconds compare only "
        "roughly"
    ),
}

Curves = Mapping[Cell, Curve]
Arms = Mapping[str, Mapping[int, Curve]]
"""By arm and seed, on one reward."""


def comparison_findings(protocol: Protocol, choices: Choices, curves: Curves) -> dict[str, Any]:
    """Everything about the finished fresh runs, reward by reward.

    Returns:
        `reference`, `last_epochs`, `method` (in words) and `rewards`: for each its `arms`, see `_arm`,
        `differences`, {arm: {other: Estimate of final - the other's final}}, and `factors`, {arm: {other: the arm's
        factor were the other the reference}}, of all ordered pairs, and `detectable`, the difference that so many seeds
        would show, None from fewer than 3.
    """
    return {
        "reference": protocol.reference,
        "last_epochs": protocol.last_epochs,
        "method": METHOD,
        "rewards": {
            reward: _reward(protocol, reward, choices, _arms(protocol, reward, curves)) for reward in protocol.rewards
        },
    }


def _arms(protocol: Protocol, reward: str, curves: Curves) -> dict[str, dict[int, Curve]]:
    found: dict[str, dict[int, Curve]] = {arm: {} for arm in protocol.arms}
    for cell, curve in curves.items():
        if cell.phase == "fresh" and cell.reward == reward:
            found[cell.arm][cell.seed] = curve
    return found


def _reward(protocol: Protocol, reward: str, choices: Choices, arms: Arms) -> dict[str, Any]:
    last = protocol.last_epochs
    finals = {arm: _finals(runs, last) for arm, runs in arms.items()}
    differences = {
        arm: {other: difference(finals[arm], finals[other]) for other in arms if other != arm} for arm in arms
    }
    return {
        "arms": {
            arm: {
                "overrides": dict(protocol.arms[arm]),
                "tuning": choices[reward, arm].plain(),
                **_arm(runs, arms[protocol.reference], last),
            }
            for arm, runs in arms.items()
        },
        "differences": differences,
        "factors": {
            arm: {other: median_factor(_factors(arms[arm], arms[other], last)) for other in arms if other != arm}
            for arm in arms
        },
        "detectable": _detectable(finals),
    }


def _finals(runs: Mapping[int, Curve], last: int) -> dict[int, float]:
    return {seed: curve.criterion(last) for seed, curve in runs.items()}


def _detectable(finals: Mapping[str, Mapping[int, float]]) -> float | None:
    """See METHOD; on the seeds of the pair of arms that has fewest in common."""
    pairs = [
        [own[seed] - theirs[seed] for seed in own if seed in theirs] for own, theirs in combinations(finals.values(), 2)
    ]
    seeds = min(map(len, pairs))
    return None if seeds < FEWEST else detectable_difference(statistics.median(map(statistics.stdev, pairs)), seeds)


def _arm(runs: Mapping[int, Curve], reference: Mapping[int, Curve], last: int) -> dict[str, Any]:
    """One arm on one reward.

    Returns:
        `final`, an Estimate of the criterion; `difference`, of final - the reference's; `factor`, a Median with
        `never`, `above_one` and `of` (numbers of seeds); `seconds_factor`, the same in seconds; `seconds_per_epoch` and
        of it `seconds_credit`, Estimates; `watched`, for each watched reward Estimates `at_reference`, `difference` and
        `final`; `curve`; `by_seed`.
    """
    by_seed = [_seed(seed, curve, reference.get(seed), last) for seed, curve in runs.items()]
    own, theirs = (_finals(side, last) for side in (runs, reference))
    return {
        "final": mean(list(own.values())),
        "difference": difference(own, theirs),
        "factor": median_factor([row["factor"] for row in by_seed]),
        "seconds_factor": median_factor([row["seconds_factor"] for row in by_seed]),
        "seconds_per_epoch": mean([float(curve.seconds[-1]) / len(curve.seconds) for curve in runs.values()]),
        "seconds_credit": mean([float(curve.credit_seconds[-1]) / len(curve.seconds) for curve in runs.values()]),
        "watched": {name: _watched(name, by_seed, reference, last) for name in _watched_names(runs)},
        "curve": _band(list(runs.values())),
        "by_seed": by_seed,
    }


def _seed(seed: int, curve: Curve, reference: Curve | None, last: int) -> dict[str, Any]:
    """One run, beside the reference's with the same seed; without that there is nothing to measure it against."""
    row = {
        "seed": seed,
        "final": curve.criterion(last),
        "rewards": curve.rewards.tolist(),
        "queries": [int(queries) for queries in curve.queries.tolist()],
        "watched": {name: values.tolist() for name, values in curve.watched.items()},
        "seconds": curve.seconds.tolist(),
    }
    nothing = dict.fromkeys(("queries_to_reference", "factor", "seconds_to_reference", "seconds_factor"))
    if reference is None:
        return row | nothing | {"watched_at_reference": {}}
    needed = curve.queries_to(reference.criterion(last), last)
    if needed is None:
        return row | nothing | {"factor": 0.0, "seconds_factor": 0.0, "watched_at_reference": {}}
    seconds = curve.seconds_at(needed)
    return row | {
        "queries_to_reference": needed,
        "factor": _factor(curve, reference, last),
        "seconds_to_reference": seconds,
        "seconds_factor": reference.seconds_at(reference.queries_to_end(last)) / seconds if seconds else None,
        "watched_at_reference": {name: curve.watched_at(name, needed, last) for name in curve.watched},
    }


def _factors(runs: Mapping[int, Curve], reference: Mapping[int, Curve], last: int) -> list[float]:
    """Of the seeds that both have."""
    return [_factor(runs[seed], reference[seed], last) for seed in runs if seed in reference]


def _factor(curve: Curve, reference: Curve, last: int) -> float:
    """See METHOD."""
    needed = curve.queries_to(reference.criterion(last), last)
    return 0.0 if needed is None else reference.queries_to_end(last) / needed


def _watched(name: str, by_seed: Sequence[Mapping[str, Any]], reference: Mapping[int, Curve], last: int) -> Any:
    there = {row["seed"]: row["watched_at_reference"][name] for row in by_seed if name in row["watched_at_reference"]}
    theirs = {seed: curve.watched_at(name, curve.queries_to_end(last), last) for seed, curve in reference.items()}
    return {
        "at_reference": mean(list(there.values())),
        "difference": difference(there, theirs),
        "final": mean([sum(row["watched"][name][-last:]) / last for row in by_seed]),
        "left_out": len(by_seed) - len(there),
    }


def _watched_names(runs: Mapping[int, Curve]) -> list[str]:
    return list(next(iter(runs.values())).watched) if runs else []


def _band(curves: Sequence[Curve]) -> dict[str, Any]:
    """Mean reward at each epoch with the interval over seeds, and the watched rewards' means."""
    if not curves:
        return {"queries": [], "mean": [], "low": [], "high": [], "watched": {}, "seconds": []}
    at_epochs = [mean(rewards) for rewards in zip(*(curve.rewards.tolist() for curve in curves), strict=True)]
    ends = [estimate["interval"] or (None, None) for estimate in at_epochs]
    return {
        "queries": [int(queries) for queries in curves[0].queries.tolist()],
        "mean": [estimate["mean"] for estimate in at_epochs],
        "low": [low for low, _ in ends],
        "high": [high for _, high in ends],
        "watched": {
            name: torch.stack([curve.watched[name] for curve in curves]).mean(0).tolist() for name in curves[0].watched
        },
        "seconds": torch.stack([curve.seconds for curve in curves]).mean(0).tolist(),
    }
