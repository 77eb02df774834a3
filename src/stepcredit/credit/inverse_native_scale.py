"""Every step moves the policy alike: the sampler's own weight of the steps is divided out."""

from dataclasses import dataclass

from torch import Tensor

from stepcredit.credit import CREDIT
from stepcredit.credit._common import scale
from stepcredit.maths.schedules import inverse_scale_weights
from stepcredit.types import Trajectory


@CREDIT.register("inverse-native-scale")
@dataclass(frozen=True)
class InverseNativeScale:
    """Every step moves the policy alike: the sampler's own weight is divided out.

        M_i = A (alpha + (1 - alpha) m_i),   m_i = (1 / s_i) / (mean of 1 / s over the trainable steps)

    with s_i = |d mean_i / d output| / std_i, the native scale of the log-probability's gradient
    (`Schedule.native_scales`). With Stable Diffusion's schedule the last step but one has a native scale several times
    that of the others, and DDPO mostly trains on it. A control: it has no notion of what a step contributed.
    Degenerate case: steps of equal native scale are `uniform`.

    Attributes:
        alpha: in [0, 1]; 1 is no step credit.
    """

    alpha: float = 0.0

    needs_x0 = False

    def __call__(self, trajectory: Trajectory, advantage: Tensor) -> Tensor:
        """(Trajectory, advantage (B,)) -> (B, T)."""
        return scale(trajectory, advantage, inverse_scale_weights(trajectory.schedule), self.alpha)

    def diagnostics(self, trajectory: Trajectory) -> dict[str, float]:
        return {}
