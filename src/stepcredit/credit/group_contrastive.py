"""Credit for what set an image apart from the others of its prompt."""

from dataclasses import dataclass

from torch import Tensor

from stepcredit.credit import CREDIT
from stepcredit.credit._common import contrast, similarity_figures, spread
from stepcredit.maths.credit import contribution_weights, mean_over_batch
from stepcredit.types import Trajectory


@CREDIT.register("group-contrastive")
@dataclass(frozen=True)
class GroupContrastive:
    """CoCA on what sets an image apart from the others of its prompt.

        s_i = cos(x0_i - m, x_T - m),   m = mean final latent of the same prompt's images in the batch,

    then w, G and M as in `contribution`. A group advantage rewards a difference between siblings, so credit goes to
    the steps that settled it. Ours, no source.
    Degenerate case: a trajectory whose total gain is below 1e-6, or that is alone in its group, gets `linear` credit
    and is counted.

    Attributes:
        window, alpha, clamp: as for `contribution`.
        batch_mean: give all trajectories the mean w of the batch.
    """

    window: int = 5
    alpha: float = 0.0
    clamp: bool = False
    batch_mean: bool = False

    needs_x0 = True
    compares_images = True

    def __call__(self, trajectory: Trajectory, advantage: Tensor) -> Tensor:
        """(Trajectory with x0, advantage (B,)) -> (B, T)."""
        weights = contribution_weights(contrast(trajectory), self.window, self.clamp)
        return spread(trajectory, advantage, mean_over_batch(weights) if self.batch_mean else weights, self.alpha)

    def diagnostics(self, trajectory: Trajectory) -> dict[str, float]:
        return similarity_figures(contrast(trajectory), self.window)
