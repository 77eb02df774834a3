"""Credit in proportion to how much of the latent a step changed."""

from dataclasses import dataclass

import torch
from torch import Tensor

from stepcredit.credit import CREDIT
from stepcredit.credit._common import scale
from stepcredit.maths.credit import mean_over_batch
from stepcredit.maths.schedules import mean_one, relative_changes, weightless_rows
from stepcredit.types import Trajectory


@CREDIT.register("relative-change")
@dataclass(frozen=True)
class RelativeChange:
    """Steps that changed more of the latent count more.

        M_i = A (alpha + (1 - alpha) m_i),   m_i = r_i / (mean of r over the trainable steps),
        r_i = |x_{i+1} - x_i| / |x_i| in the L1 norm, of each trajectory

    Source: the measure is that by which GCPO, arXiv 2510.21583, cuts trajectories; its use as a weight is ours.
    The noise drawn counts as change. Degenerate case: a trajectory that no trainable step changed gets the same for
    all of them and is counted in `credit_fallbacks`.

    Attributes:
        batch_mean: give all trajectories the mean m of the batch.
        alpha: in [0, 1]; 1 is no step credit.
    """

    batch_mean: bool = False
    alpha: float = 0.0

    needs_x0 = False

    @property
    def compares_images(self) -> bool:
        return self.batch_mean

    def __call__(self, trajectory: Trajectory, advantage: Tensor) -> Tensor:
        """(Trajectory, advantage (B,)) -> (B, T)."""
        changes = relative_changes(trajectory.latents)
        if self.batch_mean:
            changes = mean_over_batch(mean_one(changes, trajectory.trainable.to(changes.device)))
        return scale(trajectory, advantage, changes, self.alpha)

    def diagnostics(self, trajectory: Trajectory) -> dict[str, float]:
        changes = relative_changes(trajectory.latents)
        empty = weightless_rows(changes, trajectory.trainable.to(changes.device))
        return {"credit_fallbacks": int(torch.count_nonzero(empty))}
