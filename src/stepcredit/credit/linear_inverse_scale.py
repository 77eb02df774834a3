"""What is left of linear credit, with the sampler's own weight of the steps divided out."""

from dataclasses import dataclass

from torch import Tensor

from stepcredit.credit import CREDIT
from stepcredit.credit._common import scale
from stepcredit.maths.credit import linear_weights, reward_to_go
from stepcredit.maths.schedules import inverse_scale_weights
from stepcredit.types import Trajectory


@CREDIT.register("linear-inverse-scale")
@dataclass(frozen=True)
class LinearInverseScale:
    """Linear credit with the sampler's own weight of the steps divided out.

        M_i = A (alpha + (1 - alpha) m_i),   m_i = G_i / s_i over its mean on the trainable steps,   G_i = (T - i)/T

    with s_i the native scale of `inverse-native-scale`, so that m_i s_i falls linearly: what `linear` would do if the
    sampler did not weigh the steps itself. Ours, no source. Degenerate case: steps of equal native scale are `linear`
    up to a constant factor.

    Attributes:
        alpha: in [0, 1]; 1 is no step credit.
    """

    alpha: float = 0.0

    needs_x0 = False

    def __call__(self, trajectory: Trajectory, advantage: Tensor) -> Tensor:
        """(Trajectory, advantage (B,)) -> (B, T)."""
        left = reward_to_go(linear_weights(trajectory.steps)).squeeze(0)
        return scale(trajectory, advantage, left * inverse_scale_weights(trajectory.schedule), self.alpha)

    def diagnostics(self, trajectory: Trajectory) -> dict[str, float]:
        return {}
