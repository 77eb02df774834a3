"""Credit that cancels the sampler's own weighting of the steps."""

from dataclasses import dataclass

from torch import Tensor

from stepcredit.credit import FactorRule, register_credit
from stepcredit.maths.schedules import inverse_scale_weights
from stepcredit.types import Trajectory


@register_credit("inverse-native-scale")
@dataclass(frozen=True)
class InverseNativeScale(FactorRule):
    """Every step moves the policy equally: the sampler's own weight is divided out.

        m_i = (1 / s_i) / (mean of 1 / s over the trained steps),   M_i = A (alpha + (1 - alpha) m_i)

    with s_i = |d mean_i / d output| / std_i, the native scale of the log-probability's gradient
    (`Schedule.native_scales`). With Stable Diffusion's schedule, the native scale of the last step but one is several
    times that of the others, so DDPO mostly trains this step. A control: it does not depend on the images.

    Source: ours.
    Degenerate case: steps of equal native scale are `uniform`.

    Attributes:
        alpha: in [0, 1]; 1 is no step credit.
    """

    alpha: float = 0.0

    @property
    def needs_density(self) -> bool:
        return True

    def factors(self, trajectory: Trajectory) -> Tensor:
        return inverse_scale_weights(trajectory.schedule)
