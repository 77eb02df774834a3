"""Credit in proportion to the noise of the step: TempFlow-GRPO's weight."""

from dataclasses import dataclass

from torch import Tensor

from stepcredit.credit import CREDIT
from stepcredit.credit._common import scale
from stepcredit.types import Trajectory


@CREDIT.register("noise-weight")
@dataclass(frozen=True)
class NoiseWeight:
    """Steps with more noise count more, as in TempFlow-GRPO.

        M_i = A (alpha + (1 - alpha) m_i),   m_i = std_i / (mean of std over the trainable steps)

    Source: the noise-aware weight of TempFlow-GRPO, arXiv 2508.04324, whose sigma_i sqrt(d_i) is the standard deviation
    of a flow step (`maths.flow`); the same is taken of DDIM steps here. It cancels the 1 / std of the log-probability's
    gradient, so that what is left of a step's native scale is |d mean / d output|. Degenerate case: steps of equal
    noise are `uniform`.

    Attributes:
        alpha: in [0, 1]; 1 is no step credit.
    """

    alpha: float = 0.0

    needs_x0 = False

    def __call__(self, trajectory: Trajectory, advantage: Tensor) -> Tensor:
        """(Trajectory, advantage (B,)) -> (B, T)."""
        return scale(trajectory, advantage, trajectory.schedule.stds, self.alpha)

    def diagnostics(self, trajectory: Trajectory) -> dict[str, float]:
        return {}
