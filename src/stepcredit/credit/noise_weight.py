"""Credit in proportion to the noise of the step: TempFlow-GRPO's weight."""

from dataclasses import dataclass

from torch import Tensor

from stepcredit.credit import FactorRule, register_credit
from stepcredit.types import Trajectory


@register_credit("noise-weight")
@dataclass(frozen=True)
class NoiseWeight(FactorRule):
    """Steps with more noise count more, as in TempFlow-GRPO.

        m_i = std_i / (mean of std over the trained steps),   M_i = A (alpha + (1 - alpha) m_i)

    The factor cancels the 1 / std in the log-probability's gradient: of the native scale, |d mean / d output| remains.

    Source: the noise-aware weight of TempFlow-GRPO, arXiv 2508.04324. Its sigma_i sqrt(d_i) is the standard deviation
    of a flow step (`maths.flow`). Here DDIM steps use their standard deviation in the same way.
    Degenerate case: steps of equal noise are `uniform`.

    Attributes:
        alpha: in [0, 1]; 1 is no step credit.
    """

    alpha: float = 0.0

    @property
    def needs_density(self) -> bool:
        return True

    def factors(self, trajectory: Trajectory) -> Tensor:
        return trajectory.schedule.stds
