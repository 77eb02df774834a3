"""Linear credit that cancels the sampler's own weighting of the steps."""

from dataclasses import dataclass

from torch import Tensor

from stepcredit.credit import FactorRule, register_credit
from stepcredit.maths.credit import linear_weights, reward_to_go
from stepcredit.maths.schedules import inverse_scale_weights
from stepcredit.types import Trajectory


@register_credit("linear-inverse-scale")
@dataclass(frozen=True)
class LinearInverseScale(FactorRule):
    """Linear credit with the sampler's own weight of the steps divided out.

        G_i = (T - i)/T,   m_i = (G_i / s_i) / (mean of G / s over the trained steps),
        M_i = A (alpha + (1 - alpha) m_i)

    with s_i the native scale of `inverse-native-scale`, so that m_i s_i falls linearly. This is what `linear` would do
    with a sampler that does not weight the steps.

    Source: ours.
    Degenerate case: steps of equal native scale are `linear` up to a constant factor.

    Attributes:
        alpha: in [0, 1]; 1 is no step credit.
    """

    alpha: float = 0.0

    @property
    def needs_density(self) -> bool:
        return True

    def factors(self, trajectory: Trajectory) -> Tensor:
        left = reward_to_go(linear_weights(trajectory.steps)).squeeze(0)
        return left * inverse_scale_weights(trajectory.schedule)
