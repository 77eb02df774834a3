"""Tables of runs against rewards: how training on one reward changed the others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from stepcredit.evaluation.results import DIFFERENCE


def cross_tables(evaluations: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One table for every prompt set on which all runs were evaluated.

    Args:
        evaluations: of runs, each with `source`, `model`, `trained_on` and `sets` (see `prompt_set_results`).

    Returns:
        For each table `set`, the name of the prompt set; `rewards`, the columns; and `rows`, each with `run`,
        `trained_on`, `model`, `prompts` (the source of the set, which may differ between runs) and `entries`, the
        Estimate of tuned minus base for each reward.
    """
    sets_by_run = [{found["name"]: found for found in evaluation["sets"]} for evaluation in evaluations]
    common = [name for name in sets_by_run[0] if all(name in sets for sets in sets_by_run)]
    return [
        {
            "set": name,
            "rewards": list(sets_by_run[0][name]["rewards"]),
            "rows": [_row(run, sets[name]) for run, sets in zip(evaluations, sets_by_run, strict=True)],
        }
        for name in common
    ]


def _row(run: dict[str, Any], prompt_set: dict[str, Any]) -> dict[str, Any]:
    return {
        "run": run["source"],
        "trained_on": run["trained_on"],
        "model": run["model"],
        "prompts": prompt_set["source"],
        "entries": {reward: figure[DIFFERENCE] for reward, figure in prompt_set["rewards"].items()},
    }
