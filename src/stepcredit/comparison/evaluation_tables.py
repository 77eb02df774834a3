"""The evaluations of a comparison as tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from stepcredit.comparison.evaluations import figure_label
from stepcredit.evaluation.set_statistics import set_statistics
from stepcredit.evaluation.tables import estimate_text


def evaluation_table(reference: str, found: Mapping[str, Any]) -> list[list[str]]:
    """The table of one prompt set: a column for each figure; rows for base models, arms, differences and baselines.

    Args:
        found: what `evaluation_results` says about the set.
    """
    arms = found["arms"]
    figures = list(dict.fromkeys(figure for arm in arms.values() for figure in arm["figures"]))
    lines = [[f"{found['set']}, {found['images']} images", *map(figure_label, figures)]]
    for base in found["base"]:
        name = "base model" if len(found["base"]) == 1 else f"base model of {', '.join(base['arms'])}"
        lines.append(_row(name, figures, base["figures"], _number))
    lines += [
        _row(name, figures, arm["figures"], lambda one: estimate_text(one, signed=False)) for name, arm in arms.items()
    ]
    lines += [
        _row(f"{name} - {reference}", figures, arm["differences"], lambda one: estimate_text(one, signed=True))
        for name, arm in arms.items()
        if name != reference
    ]
    for key, value in found["baselines"].items():
        owners = {name: one.baselines[key] for name, one in set_statistics().items() if key in one.baselines}
        lines += [_row(words, figures, {name: value}, _number) for name, words in owners.items()]
    return lines


def evaluation_notes(results: Mapping[str, Any]) -> list[str]:
    """What the figures in these tables mean; none without evaluations."""
    sets = [one for result in results["rewards"].values() for one in result.get("evaluation", [])]
    if not sets:
        return []
    figures = {figure for one in sets for arm in one["arms"].values() for figure in arm["figures"]}
    meanings = [f"{one.label}: {one.meaning}" for name, one in set_statistics().items() if name in figures]
    return [f"evaluation: {results['method']['evaluation']}", *meanings]


def evaluation_estimates(result: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The Estimates in the tables of one reward."""
    return [
        estimate
        for one in result.get("evaluation", [])
        for arm in one["arms"].values()
        for part in ("figures", "differences")
        for estimate in arm[part].values()
    ]


def _row(name: str, figures: Sequence[str], values: Mapping[str, Any], cell: Callable[[Any], str]) -> list[str]:
    return [name, *(cell(values[figure]) if figure in values else "" for figure in figures)]


def _number(value: float) -> str:
    return f"{value:.4g}"
