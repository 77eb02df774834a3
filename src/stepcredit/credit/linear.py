"""Credit that falls linearly from the first step to the last: UCA."""

from dataclasses import dataclass

from torch import Tensor

from stepcredit.credit import WeightRule, register_credit
from stepcredit.maths.credit import linear_weights
from stepcredit.types import Trajectory


@register_credit("linear")
@dataclass(frozen=True)
class Linear(WeightRule):
    """Every step earns the same share, so credit falls linearly over the steps: UCA.

        w_i = 1/T,   G_i = (T - i)/T,   M_i = A (alpha + (1 - alpha) G_i)

    Source: uniform credit assignment (UCA), a baseline of CoCA, arXiv 2505.19196. The released `train_uca.py` indexes
    the weights by position in a shuffled loop, so they do not belong to the step; here they do.
    Degenerate case: T = 1 is `uniform`.

    Attributes:
        alpha: in [0, 1]; 1 is no step credit.
    """

    alpha: float = 0.0

    def weights(self, trajectory: Trajectory) -> Tensor:
        return linear_weights(trajectory.steps)
