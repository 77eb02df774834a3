"""Statistics of the evaluations of the fresh runs on one reward, as plain data that can be written as JSON."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from stepcredit.comparison.estimates import difference, mean
from stepcredit.comparison.evaluations import Figures, SetEvaluation

METHOD = (
    "the fresh runs after training, on fixed prompts; images of all runs and of the base model have the same noise; "
    "intervals are over the fresh seeds, and differences are paired by seed"
)

Arms = Mapping[str, Mapping[int, Sequence[SetEvaluation]]]
"""By arm and seed, what its evaluation found on each prompt set."""


def evaluation_results(arms: Arms, reference: str) -> list[dict[str, Any]]:
    """Summarize each prompt set.

    Returns:
        For each prompt set `set`, its name; `prompts` and `images`, numbers; `baselines` of the set statistics; `base`,
        for each base model the `arms` that start from it and its `figures`; and `arms`, for each arm with an evaluation
        `figures`, the Estimate of each over seeds, `differences`, the Estimates of their difference from the
        reference, and `by_seed`, the numbers of each run, `base` and `tuned`.
    """
    names = dict.fromkeys(one.name for runs in arms.values() for sets in runs.values() for one in sets)
    return [_set(name, _on_set(name, arms), reference) for name in names]


def _on_set(name: str, arms: Arms) -> dict[str, dict[int, SetEvaluation]]:
    """By arm and seed, the evaluations on one set. Arms without one are left out."""
    found = {
        arm: {seed: one for seed, sets in runs.items() for one in sets if one.name == name}
        for arm, runs in arms.items()
    }
    return {arm: runs for arm, runs in found.items() if runs}


def _set(name: str, arms: Mapping[str, Mapping[int, SetEvaluation]], reference: str) -> dict[str, Any]:
    first = next(one for runs in arms.values() for one in runs.values())
    return {
        "set": name,
        "prompts": first.prompts,
        "images": first.images,
        "baselines": dict(first.baselines),
        "base": _bases(arms),
        "arms": {arm: _arm(runs, arms.get(reference, {})) for arm, runs in arms.items()},
    }


def _bases(arms: Mapping[str, Mapping[int, SetEvaluation]]) -> list[dict[str, Any]]:
    """The base models. Arms whose base has equal figures on their common seeds share one."""
    groups: list[list[str]] = []
    for arm, runs in arms.items():
        group = next((names for names in groups if _same_base(runs, arms[names[0]])), None)
        if group is None:
            groups.append([arm])
        else:
            group.append(arm)
    return [
        {"arms": names, "figures": _means([one.base for arm in names for one in arms[arm].values()])}
        for names in groups
    ]


def _same_base(runs: Mapping[int, SetEvaluation], others: Mapping[int, SetEvaluation]) -> bool:
    common = [seed for seed in runs if seed in others]
    return bool(common) and all(runs[seed].base == others[seed].base for seed in common)


def _means(rows: Sequence[Figures]) -> dict[str, float]:
    return {figure: statistics.fmean(row[figure] for row in rows) for figure in _common(rows)}


def _common(rows: Sequence[Figures]) -> list[str]:
    """The figures that every row has."""
    return [figure for figure in rows[0] if all(figure in row for row in rows)]


def _arm(runs: Mapping[int, SetEvaluation], reference: Mapping[int, SetEvaluation]) -> dict[str, Any]:
    figures = _common([one.tuned for one in runs.values()])
    return {
        "figures": {figure: mean([one.tuned[figure] for one in runs.values()]) for figure in figures},
        "differences": {figure: difference(_by_seed(runs, figure), _by_seed(reference, figure)) for figure in figures},
        "by_seed": [{"seed": seed, "base": dict(one.base), "tuned": dict(one.tuned)} for seed, one in runs.items()],
    }


def _by_seed(runs: Mapping[int, SetEvaluation], figure: str) -> dict[int, float]:
    return {seed: one.tuned[figure] for seed, one in runs.items() if figure in one.tuned}
