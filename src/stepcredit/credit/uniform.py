"""No step credit: DDPO."""

from dataclasses import dataclass

from torch import Tensor

from stepcredit.credit import WeightRule, register_credit
from stepcredit.maths.credit import uniform_weights
from stepcredit.types import Trajectory


@register_credit("uniform")
@dataclass(frozen=True)
class Uniform(WeightRule):
    """Every step gets the whole advantage, as in DDPO.

        M_i = A

    As weights: the last step earned everything, so nothing is earned before it and G is 1 at every step.

    Source: DDPO, arXiv 2305.13301.
    Degenerate case: none.
    """

    alpha = 1.0

    def weights(self, trajectory: Trajectory) -> Tensor:
        return uniform_weights(trajectory.steps)
