"""Credit in proportion to what each step contributed: CoCA."""

from dataclasses import dataclass

from torch import Tensor

from stepcredit.credit import WeightRule, register_credit
from stepcredit.credit._similarity import similarity, similarity_metrics
from stepcredit.maths.credit import contribution_weights
from stepcredit.types import Trajectory


@register_credit("contribution")
@dataclass(frozen=True)
class Contribution(WeightRule):
    """Credit by how much closer each step brought the predicted image to the final one: CoCA.

        s_i = cos(x0_i, x_T),   w_i = gain of s over the window of step i / (total gain * window length),
        G_i = sum over j >= i of w_j,   M_i = A (alpha + (1 - alpha) G_i)

    Source: CoCA, arXiv 2505.19196, as released. `maths.credit.contribution_weights` lists the differences.
    Degenerate case: a trajectory whose total gain is below 1e-6 gets `linear` credit and counts in `credit_fallbacks`.

    Attributes:
        window: steps per window; T or more is `linear`.
        alpha: in [0, 1]; 1 is no step credit.
        clamp: set negative gains to zero; otherwise G may exceed 1.
    """

    window: int = 5
    alpha: float = 0.0
    clamp: bool = False

    needs_x0 = True

    def weights(self, trajectory: Trajectory) -> Tensor:
        return contribution_weights(similarity(trajectory), self.window, self.clamp)

    def diagnostics(self, trajectory: Trajectory) -> dict[str, float]:
        return similarity_metrics(similarity(trajectory), self.window)
