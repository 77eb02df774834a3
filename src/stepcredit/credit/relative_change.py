"""Credit in proportion to how much of the latent a step changed."""

from dataclasses import dataclass

import torch
from torch import Tensor

from stepcredit.credit import FactorRule, register_credit
from stepcredit.maths.credit import mean_over_batch
from stepcredit.maths.schedules import mean_one, relative_changes, weightless_rows
from stepcredit.types import Trajectory


@register_credit("relative-change")
@dataclass(frozen=True)
class RelativeChange(FactorRule):
    """Steps that changed more of the latent count more.

        r_i = |x_{i+1} - x_i| / |x_i| in the L1 norm, of each trajectory,
        m_i = r_i / (mean of r over the trained steps),   M_i = A (alpha + (1 - alpha) m_i)

    The noise that a step adds counts as change.

    Source: GCPO, arXiv 2510.21583, cuts trajectories by this measure. Its use as a weight is ours.
    Degenerate case: a trajectory that no trained step changed gets the same factor at all of them and counts in
    `credit_fallbacks`.

    Attributes:
        batch_mean: give all trajectories the mean m of the batch.
        alpha: in [0, 1]; 1 is no step credit.
    """

    batch_mean: bool = False
    alpha: float = 0.0

    @property
    def compares_images(self) -> bool:
        return self.batch_mean

    def factors(self, trajectory: Trajectory) -> Tensor:
        changes = relative_changes(trajectory.latents)
        if not self.batch_mean:
            return changes
        return mean_over_batch(mean_one(changes, trajectory.trainable.to(changes.device)))

    def diagnostics(self, trajectory: Trajectory) -> dict[str, float]:
        changes = relative_changes(trajectory.latents)
        empty = weightless_rows(changes, trajectory.trainable.to(changes.device))
        return {"credit_fallbacks": int(torch.count_nonzero(empty))}
