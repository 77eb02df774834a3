"""Statistics of the finished runs of a comparison, as plain data that can be written as JSON.

Every figure that depends on a clock has `seconds` in its key.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any, TypeVar

import torch

from stepcredit.comparison.cells import Cell
from stepcredit.comparison.curves import Curve
from stepcredit.comparison.estimates import difference, mean, median_factor
from stepcredit.comparison.evaluation_results import METHOD as EVALUATION_METHOD
from stepcredit.comparison.evaluation_results import evaluation_results
from stepcredit.comparison.evaluations import SetEvaluation
from stepcredit.comparison.protocol import Protocol
from stepcredit.comparison.tuning import Choices
from stepcredit.stats.intervals import FEW_CLUSTERS, LEVEL, RESAMPLES
from stepcredit.stats.power import POWER, detectable_difference

MIN_SEEDS = 3
"""With fewer seeds the spread of a difference is not estimated."""
METHOD = {
    "rewards": (
        "mean reward of an epoch's training images, which are sampled before its update; curves are trailing means "
        "over as many epochs as the criterion"
    ),
    "uncertainty": (
        f"{LEVEL:.0%} intervals over the fresh seeds; differences and factors are paired by seed; means have a t "
        f"interval below {FEW_CLUSTERS} seeds, otherwise a percentile bootstrap with {RESAMPLES} resamples; medians "
        "have the interval between two order statistics, which is [min, max] for up to 8 seeds and covers 93.75% for 5"
    ),
    "detectable": (
        f"the difference of final rewards that a paired t-test at {LEVEL:.0%} detects with a probability of "
        f"{POWER:.0%} on this number of seeds, given the median spread over all pairs of arms"
    ),
    "queries_to_reference": (
        "reward queries until the arm's curve first reaches the final reward of the reference with the same seed, "
        "interpolated between epochs; the reference itself may reach it before its last epoch"
    ),
    "factor": (
        "the reference's queries to its own final reward, divided by the arm's queries to the same reward; 0 if the "
        "arm never reaches it"
    ),
    "watched_at_reference": (
        "trailing mean of the watched reward on the training images at that point; seeds that never reach it are left "
        "out"
    ),
    "seconds": (
        "sampling, scoring, credit and training of one process with one thread, without start-up, image grids and "
        "checkpoints; runs at the same time share cores, caches and memory, so compare seconds only roughly"
    ),
}

Found = TypeVar("Found")
Curves = Mapping[Cell, Curve]
Evaluations = Mapping[Cell, Sequence[SetEvaluation]]
Arms = Mapping[str, Mapping[int, Curve]]
"""By arm and seed, on one reward."""


def comparison_results(
    protocol: Protocol, choices: Choices, curves: Curves, evaluations: Evaluations | None = None
) -> dict[str, Any]:
    """Summarize the finished fresh runs, reward by reward.

    Args:
        evaluations: of the runs that were evaluated; None if the comparison evaluates nothing.

    Returns:
        `reference`, `last_epochs`, `method` (in words) and `rewards`. For each reward: `arms`, see `_arm`;
        `differences`, {arm: {other: Estimate of the final reward minus the other's}}; `factors`, {arm: {other: Median
        of the arm's factor with the other as reference}}; `detectable`, the difference that this number of seeds would
        show, None for fewer than 3 seeds; and, with `evaluations`, `evaluation`, see `evaluation_results`.
    """
    return {
        "reference": protocol.reference,
        "last_epochs": protocol.last_epochs,
        "method": METHOD | ({} if evaluations is None else {"evaluation": EVALUATION_METHOD}),
        "rewards": {
            reward: {
                **_reward(protocol, reward, choices, _by_arm(protocol, reward, curves)),
                **({} if evaluations is None else _evaluation(protocol, reward, evaluations)),
            }
            for reward in protocol.rewards
        },
    }


def _evaluation(protocol: Protocol, reward: str, evaluations: Evaluations) -> dict[str, Any]:
    return {"evaluation": evaluation_results(_by_arm(protocol, reward, evaluations), protocol.reference)}


def _by_arm(protocol: Protocol, reward: str, by_cell: Mapping[Cell, Found]) -> dict[str, dict[int, Found]]:
    """What the fresh runs on one reward have, by arm and seed."""
    arms: dict[str, dict[int, Found]] = {arm: {} for arm in protocol.arms}
    for cell, found in by_cell.items():
        if cell.phase == "fresh" and cell.reward == reward:
            arms[cell.arm][cell.seed] = found
    return arms


def _reward(protocol: Protocol, reward: str, choices: Choices, arms: Arms) -> dict[str, Any]:
    last = protocol.last_epochs
    finals = {arm: _finals(runs, last) for arm, runs in arms.items()}
    return {
        "arms": {
            arm: {
                "overrides": dict(protocol.arms[arm]),
                "tuning": choices[reward, arm].as_json(),
                **_arm(runs, arms[protocol.reference], last),
            }
            for arm, runs in arms.items()
        },
        "differences": {
            arm: {other: difference(finals[arm], finals[other]) for other in arms if other != arm} for arm in arms
        },
        "factors": {
            arm: {other: median_factor(_factors(arms[arm], arms[other], last)) for other in arms if other != arm}
            for arm in arms
        },
        "detectable": _detectable(finals),
    }


def _finals(runs: Mapping[int, Curve], last: int) -> dict[int, float]:
    return {seed: curve.criterion(last) for seed, curve in runs.items()}


def _detectable(finals: Mapping[str, Mapping[int, float]]) -> float | None:
    """See METHOD. The number of seeds is that of the pair of arms with the fewest seeds in common."""
    differences = [
        [first[seed] - second[seed] for seed in first if seed in second]
        for first, second in combinations(finals.values(), 2)
    ]
    seeds = min(map(len, differences))
    if seeds < MIN_SEEDS:
        return None
    return detectable_difference(statistics.median(map(statistics.stdev, differences)), seeds)


def _arm(runs: Mapping[int, Curve], reference: Mapping[int, Curve], last: int) -> dict[str, Any]:
    """Summarize one arm on one reward.

    Returns:
        `final`, the Estimate of the criterion; `difference`, of final minus the reference's; `factor`, a Median with
        `never`, `above_one` and `of` (numbers of seeds); `seconds_factor`, the same in seconds; `seconds_per_epoch` and
        `seconds_credit`, the part of it spent on credit, Estimates; `watched`, for each watched reward the Estimates
        `at_reference`, `difference` and `final`; `curve`; `by_seed`.
    """
    by_seed = [_seed(seed, curve, reference.get(seed), last) for seed, curve in runs.items()]
    finals, reference_finals = (_finals(side, last) for side in (runs, reference))
    return {
        "final": mean(list(finals.values())),
        "difference": difference(finals, reference_finals),
        "factor": median_factor([row["factor"] for row in by_seed]),
        "seconds_factor": median_factor([row["seconds_factor"] for row in by_seed]),
        "seconds_per_epoch": mean([float(curve.seconds[-1]) / len(curve.seconds) for curve in runs.values()]),
        "seconds_credit": mean([float(curve.credit_seconds[-1]) / len(curve.seconds) for curve in runs.values()]),
        "watched": {name: _watched(name, by_seed, reference, last) for name in _watched_names(runs)},
        "curve": _mean_curve(list(runs.values())),
        "by_seed": by_seed,
    }


def _seed(seed: int, curve: Curve, reference: Curve | None, last: int) -> dict[str, Any]:
    """Summarize one run, compared with the reference's run of the same seed if there is one."""
    row = {
        "seed": seed,
        "final": curve.criterion(last),
        "rewards": curve.rewards.tolist(),
        "queries": [int(queries) for queries in curve.queries.tolist()],
        "watched": {name: values.tolist() for name, values in curve.watched.items()},
        "seconds": curve.seconds.tolist(),
    }
    missing = dict.fromkeys(("queries_to_reference", "factor", "seconds_to_reference", "seconds_factor"))
    if reference is None:
        return row | missing | {"watched_at_reference": {}}
    needed = curve.queries_to(reference.criterion(last), last)
    if needed is None:
        return row | missing | {"factor": 0.0, "seconds_factor": 0.0, "watched_at_reference": {}}
    seconds = curve.seconds_at(needed)
    return row | {
        "queries_to_reference": needed,
        "factor": _factor(curve, reference, last),
        "seconds_to_reference": seconds,
        "seconds_factor": reference.seconds_at(reference.queries_to_end(last)) / seconds if seconds else None,
        "watched_at_reference": {name: curve.watched_at(name, needed, last) for name in curve.watched},
    }


def _factors(runs: Mapping[int, Curve], reference: Mapping[int, Curve], last: int) -> list[float]:
    """The factors of the seeds that both have."""
    return [_factor(runs[seed], reference[seed], last) for seed in runs if seed in reference]


def _factor(curve: Curve, reference: Curve, last: int) -> float:
    """See METHOD."""
    needed = curve.queries_to(reference.criterion(last), last)
    return 0.0 if needed is None else reference.queries_to_end(last) / needed


def _watched(name: str, by_seed: Sequence[Mapping[str, Any]], reference: Mapping[int, Curve], last: int) -> Any:
    matched = {row["seed"]: row["watched_at_reference"][name] for row in by_seed if name in row["watched_at_reference"]}
    at_end = {seed: curve.watched_at(name, curve.queries_to_end(last), last) for seed, curve in reference.items()}
    return {
        "at_reference": mean(list(matched.values())),
        "difference": difference(matched, at_end),
        "final": mean([sum(row["watched"][name][-last:]) / last for row in by_seed]),
        "left_out": len(by_seed) - len(matched),
    }


def _watched_names(runs: Mapping[int, Curve]) -> list[str]:
    return list(next(iter(runs.values())).watched) if runs else []


def _mean_curve(curves: Sequence[Curve]) -> dict[str, Any]:
    """Mean reward at each epoch with its interval over seeds, and the means of the watched rewards."""
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
