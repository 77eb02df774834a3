"""How often a scorer agrees with its hidden rule, and with the noisy judge who stands between them."""

from __future__ import annotations

import math

import numpy as np
from torch import Tensor

from stepcredit.maths.preference import agreement
from stepcredit.shapes.build.preference_pairs import Comparisons, judge
from stepcredit.shapes.build.preference_training import score_comparisons
from stepcredit.shapes.scorers import Scorer

HELD_OUT_SEED = 2026
SURE = 0.9
"""A pair is decided if the judge would choose as the rule does with at least this probability."""


def agreements(scorer: Scorer, name: str, data: Comparisons, temperature: float) -> dict[str, float]:
    """Agreement on pairs (images K = 2) of unequal utility, rounded to four places.

    Returns:
        decided: with the rule, on decided pairs, and `decided_partition`, how many are.
        decided_undamaged: the same where both images are undamaged, so that only the rule itself decides.
        all: with the rule, on all pairs.
        judge: with one noisy judgement of each pair, and `judge_ceiling`: that of the rule itself.
    """
    left, right = data.utilities[name].unbind(1)
    scores = score_comparisons(scorer, data)
    unequal = left != right
    decided = decided_pairs(left, right, temperature)
    judged = judge(left, right, temperature, np.random.default_rng(HELD_OUT_SEED))

    def share(rows: Tensor, by: Tensor, preferred: Tensor) -> float:
        return round(agreement(by[rows, 0], by[rows, 1], preferred[rows]), 4)

    better = left > right
    return {
        "decided": share(decided, scores, better),
        "decided_partition": round(float(decided.float().mean()), 4),
        "decided_undamaged": share(decided & (data.damages.amax(1) == 0), scores, better),
        "all": share(unequal, scores, better),
        "judge": share(unequal, scores, judged),
        "judge_ceiling": share(unequal, data.utilities[name], judged),
    }


def decided_pairs(left: Tensor, right: Tensor, temperature: float) -> Tensor:
    """Which pairs (N,) have |left - right| >= temperature ln(SURE / (1 - SURE))."""
    return (left - right).abs() >= temperature * math.log(SURE / (1 - SURE))
