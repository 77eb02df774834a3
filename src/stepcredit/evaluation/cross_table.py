"""Runs against rewards: what training on one reward did to the others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from stepcredit.evaluation.results import DIFFERENCE


def cross_tables(evaluations: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One table for every prompt set that all of the runs were measured on, by the name of the set.

    Args:
        evaluations: of runs, each with `source`, `model`, `trained_on` and `sets` (see `findings`).

    Returns:
        For each `set`: `rewards`, the columns, and `rows`, each with `run`, `trained_on`, `model`, `prompts` (the
        source of the set, which may differ by run) and `entries`, per reward the Estimate of tuned minus base.
    """
    by_set = [{found["name"]: found for found in evaluation["sets"]} for evaluation in evaluations]
    common = [name for name in by_set[0] if all(name in found for found in by_set)]
    return [
        {
            "set": name,
            "rewards": list(by_set[0][name]["rewards"]),
            "rows": [_row(run, found[name]) for run, found in zip(evaluations, by_set, strict=True)],
        }
        for name in common
    ]


def _row(run: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    return {
        "run": run["source"],
        "trained_on": run["trained_on"],
        "model": run["model"],
        "prompts": found["source"],
        "entries": {reward: figure[DIFFERENCE] for reward, figure in found["rewards"].items()},
    }
