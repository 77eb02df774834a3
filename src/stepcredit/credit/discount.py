"""Credit that falls by a constant factor from step to step."""

from dataclasses import dataclass

from torch import Tensor

from stepcredit.credit import FactorRule, register_credit
from stepcredit.errors import InputError
from stepcredit.maths.schedules import discount_weights
from stepcredit.types import Trajectory


@register_credit("discount")
@dataclass(frozen=True)
class Discount(FactorRule):
    """Early steps count more, by a constant factor per step.

        m_i = gamma^i / (mean of gamma^j over the trained steps j),   M_i = A (alpha + (1 - alpha) m_i)

    A control: it depends only on the number of the step.

    Source: the discount of the dense-reward view, arXiv 2402.08265, which applies it to the log-ratios of a preference
    loss.
    Degenerate case: gamma = 1 is `uniform`.

    Attributes:
        gamma: in (0, 1].
        alpha: in [0, 1]; 1 is no step credit.
    """

    gamma: float = 0.9
    alpha: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.gamma <= 1:
            raise InputError(f"credit.options.gamma is {self.gamma}, expected above 0 and at most 1: 1 is no discount")

    def factors(self, trajectory: Trajectory) -> Tensor:
        return discount_weights(trajectory.steps, self.gamma)
