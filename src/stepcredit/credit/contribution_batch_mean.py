"""CoCA's average schedule without credit for single trajectories: the control that separates credit from schedule."""

from dataclasses import dataclass

from torch import Tensor

from stepcredit.credit import WeightRule, register_credit
from stepcredit.credit._similarity import similarity, similarity_metrics
from stepcredit.maths.credit import contribution_weights, mean_over_batch
from stepcredit.types import Trajectory


@register_credit("contribution-batch-mean")
@dataclass(frozen=True)
class ContributionBatchMean(WeightRule):
    """CoCA's weights averaged over the batch: the control that separates credit from schedule.

        v_i = mean over the batch of w_b,i (the weights of `contribution`),   M_i = A (alpha + (1 - alpha) G_i(v))

    All trajectories share the schedule that CoCA has on average. If this rule does as well as `contribution`, the
    schedule helped and not the credit of single trajectories.

    Source: ours; the paper has no such control.
    Degenerate case: a batch of one is `contribution`. Trajectories without gain enter the mean with 1/T.

    Attributes:
        window: steps per window; T or more is `linear`.
        alpha: in [0, 1]; 1 is no step credit.
        clamp: set negative gains to zero; otherwise G may exceed 1.
    """

    window: int = 5
    alpha: float = 0.0
    clamp: bool = False

    needs_x0 = True
    compares_images = True

    def weights(self, trajectory: Trajectory) -> Tensor:
        return mean_over_batch(contribution_weights(similarity(trajectory), self.window, self.clamp))

    def diagnostics(self, trajectory: Trajectory) -> dict[str, float]:
        return similarity_metrics(similarity(trajectory), self.window)
