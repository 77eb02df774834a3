"""CoCA's schedule without its credit: the control that tells the two apart."""

from dataclasses import dataclass

from torch import Tensor

from stepcredit.credit import CREDIT
from stepcredit.credit._common import similarity, similarity_figures, spread
from stepcredit.maths.credit import contribution_weights, mean_over_batch
from stepcredit.types import Trajectory


@CREDIT.register("contribution-batch-mean")
@dataclass(frozen=True)
class ContributionBatchMean:
    """CoCA's weights averaged over the batch: the control that tells credit from schedule.

        v_i = mean over the batch of w_b,i (the weights of `contribution`),   M_i = A (alpha + (1 - alpha) G_i(v))

    All trajectories share one schedule, of the shape that CoCA has on average. Where this rule does as well as
    `contribution`, it was the schedule that helped and not the credit of single trajectories. The paper has no such
    control; it is ours.
    Degenerate case: a batch of one is `contribution`; trajectories without gain enter the mean with 1/T.

    Attributes:
        window, alpha, clamp: as for `contribution`.
    """

    window: int = 5
    alpha: float = 0.0
    clamp: bool = False

    needs_x0 = True
    compares_images = True

    def __call__(self, trajectory: Trajectory, advantage: Tensor) -> Tensor:
        """(Trajectory with x0, advantage (B,)) -> (B, T)."""
        weights = contribution_weights(similarity(trajectory), self.window, self.clamp)
        return spread(trajectory, advantage, mean_over_batch(weights), self.alpha)

    def diagnostics(self, trajectory: Trajectory) -> dict[str, float]:
        return similarity_figures(similarity(trajectory), self.window)
