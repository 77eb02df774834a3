"""Credit that falls by a constant factor from step to step."""

from dataclasses import dataclass

from torch import Tensor

from stepcredit.credit import CREDIT
from stepcredit.credit._common import scale
from stepcredit.errors import InputError
from stepcredit.maths.schedules import discount_weights
from stepcredit.types import Trajectory


@CREDIT.register("discount")
@dataclass(frozen=True)
class Discount:
    """Early steps count more, by a constant factor per step.

        M_i = A (alpha + (1 - alpha) m_i),   m_i = gamma^i / (mean of gamma^j over the trainable steps j)

    Source: the discount of the dense-reward view, arXiv 2402.08265, there on the log-ratios of a preference loss. A
    control: it looks at nothing but the step's number. Degenerate case: gamma = 1 is `uniform`.

    Attributes:
        gamma: in (0, 1].
        alpha: in [0, 1]; 1 is no step credit.
    """

    gamma: float = 0.9
    alpha: float = 0.0

    needs_x0 = False

    def __post_init__(self) -> None:
        if not 0 < self.gamma <= 1:
            raise InputError(f"credit.options.gamma is {self.gamma}, expected above 0 and at most 1: 1 is no discount")

    def __call__(self, trajectory: Trajectory, advantage: Tensor) -> Tensor:
        """(Trajectory, advantage (B,)) -> (B, T)."""
        return scale(trajectory, advantage, discount_weights(trajectory.steps, self.gamma), self.alpha)

    def diagnostics(self, trajectory: Trajectory) -> dict[str, float]:
        return {}
