"""How often a scorer agrees with its rule and with the noisy judge."""

from __future__ import annotations

import math

import numpy as np
from torch import Tensor

from stepcredit.maths.preference import agreement
from stepcredit.shapes.build.preference_pairs import Comparisons, judge

HELD_OUT_SEED = 2026
DECIDED = 0.9
"""A pair is decided if the judge agrees with the rule with at least this probability."""


def agreements(scores: Tensor, name: str, data: Comparisons, temperature: float) -> dict[str, float]:
    """Agreement of the scores (N,2) of pairs of images (K = 2) with different utilities, rounded to four places.

    Returns:
        decided: agreement with the rule on decided pairs; `decided_share` is their share of all pairs.
        decided_undamaged: the same for pairs without damage, where only the rule itself makes a difference.
        all: agreement with the rule on all pairs.
        judge: agreement with one noisy choice for each pair; `judge_ceiling` is the agreement of the rule with it.
    """
    left, right = data.utilities[name].unbind(1)
    unequal = left != right
    decided = decided_pairs(left, right, temperature)
    choices = judge(left, right, temperature, np.random.default_rng(HELD_OUT_SEED))

    def share(rows: Tensor, scores: Tensor, preferred: Tensor) -> float:
        return round(agreement(scores[rows, 0], scores[rows, 1], preferred[rows]), 4)

    better = left > right
    return {
        "decided": share(decided, scores, better),
        "decided_share": round(float(decided.float().mean()), 4),
        "decided_undamaged": share(decided & (data.damages.amax(1) == 0), scores, better),
        "all": share(unequal, scores, better),
        "judge": share(unequal, scores, choices),
        "judge_ceiling": share(unequal, data.utilities[name], choices),
    }


def decided_pairs(left: Tensor, right: Tensor, temperature: float) -> Tensor:
    """Which pairs (N,) have |left - right| >= temperature ln(DECIDED / (1 - DECIDED))."""
    return (left - right).abs() >= temperature * math.log(DECIDED / (1 - DECIDED))
