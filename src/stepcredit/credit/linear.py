"""Credit that falls linearly with the step: the CoCA paper's baseline UCA, by true step index."""

from dataclasses import dataclass

from torch import Tensor

from stepcredit.credit import CREDIT
from stepcredit.credit._common import spread
from stepcredit.maths.credit import linear_weights
from stepcredit.types import Trajectory


@CREDIT.register("linear")
@dataclass(frozen=True)
class Linear:
    """The same share for every step, so that what is left falls linearly: the paper's UCA.

        w_i = 1/T,   G_i = (T - i)/T,   M_i = A (alpha + (1 - alpha) G_i)

    Source: CoCA, arXiv 2505.19196. The released `train_uca.py` reads the weight by position in a shuffled loop, so its
    weights have nothing to do with the step; here they belong to the true step. Degenerate case: T = 1 is `uniform`.

    Attributes:
        alpha: in [0, 1]; 1 is no step credit.
    """

    alpha: float = 0.0

    needs_x0 = False

    def __call__(self, trajectory: Trajectory, advantage: Tensor) -> Tensor:
        """(Trajectory, advantage (B,)) -> (B, T)."""
        return spread(trajectory, advantage, linear_weights(trajectory.steps), self.alpha)

    def diagnostics(self, trajectory: Trajectory) -> dict[str, float]:
        return {}
