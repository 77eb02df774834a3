"""Credit for what distinguishes an image from the others of its prompt."""

from dataclasses import dataclass

from torch import Tensor

from stepcredit.credit import WeightRule, register_credit
from stepcredit.credit._similarity import contrast, similarity_metrics
from stepcredit.maths.credit import contribution_weights, mean_over_batch
from stepcredit.types import Trajectory


@register_credit("group-contrastive")
@dataclass(frozen=True)
class GroupContrastive(WeightRule):
    """CoCA on what distinguishes an image from the others of its prompt.

        s_i = cos(x0_i - m, x_T - m),   m = mean final latent of the same prompt's images in the batch,

    then w, G and M as in `contribution`. A group advantage rewards a difference between images of one prompt, so the
    steps that decided this difference get the credit.

    Source: ours.
    Degenerate case: a trajectory whose total gain is below 1e-6, or that is the only one of its prompt, gets `linear`
    credit and counts in `credit_fallbacks`.

    Attributes:
        window: steps per window; T or more is `linear`.
        alpha: in [0, 1]; 1 is no step credit.
        clamp: set negative gains to zero; otherwise G may exceed 1.
        batch_mean: give all trajectories the mean w of the batch.
    """

    window: int = 5
    alpha: float = 0.0
    clamp: bool = False
    batch_mean: bool = False

    needs_x0 = True
    compares_images = True

    def weights(self, trajectory: Trajectory) -> Tensor:
        weights = contribution_weights(contrast(trajectory), self.window, self.clamp)
        return mean_over_batch(weights) if self.batch_mean else weights

    def diagnostics(self, trajectory: Trajectory) -> dict[str, float]:
        return similarity_metrics(contrast(trajectory), self.window)
