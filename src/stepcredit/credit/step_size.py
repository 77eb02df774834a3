"""Credit by which every step moves the policy in proportion to its length: PCPO."""

from dataclasses import dataclass

from torch import Tensor

from stepcredit.credit import FactorRule, register_credit
from stepcredit.maths.schedules import step_size_weights
from stepcredit.types import Trajectory


@register_credit("step-size")
@dataclass(frozen=True)
class StepSize(FactorRule):
    """Every step moves the policy in proportion to the time it covers, as in PCPO.

        m_i = (d_i / s_i) / (mean of d / s over the trained steps),   M_i = A (alpha + (1 - alpha) m_i)

    with d_i the length of the step (`Schedule.step_sizes`) and s_i the native scale of its log-probability's gradient
    (`Schedule.native_scales`), so that m_i s_i is proportional to d_i.

    Source: PCPO, arXiv 2509.25774, proposition 2, without its hinge loss.
    Degenerate case: if all steps have the same length, as with DDIM, this is `inverse-native-scale`. PCPO achieves the
    same for diffusion models by changing their noise.

    Attributes:
        alpha: in [0, 1]; 1 is no step credit.
    """

    alpha: float = 0.0

    @property
    def needs_density(self) -> bool:
        return True

    def factors(self, trajectory: Trajectory) -> Tensor:
        return step_size_weights(trajectory.schedule)
