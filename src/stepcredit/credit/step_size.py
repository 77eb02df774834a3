"""Every step moves the policy in proportion to its length: PCPO's credit."""

from dataclasses import dataclass

from torch import Tensor

from stepcredit.credit import CREDIT
from stepcredit.credit._common import scale
from stepcredit.maths.schedules import step_size_weights
from stepcredit.types import Trajectory


@CREDIT.register("step-size")
@dataclass(frozen=True)
class StepSize:
    """Every step moves the policy in proportion to the time it covers, as in PCPO.

        M_i = A (alpha + (1 - alpha) m_i),   m_i = d_i / s_i over its mean on the trainable steps

    with d_i the length of the step (`Schedule.step_sizes`) and s_i the native scale of its log-probability's gradient
    (`Schedule.native_scales`), so that m_i s_i is proportional to d_i. Source: PCPO, arXiv 2509.25774, proposition 2,
    without its hinge loss. Degenerate case: where all steps are of one length, as DDIM's are, this is
    `inverse-native-scale`, which is what PCPO does to diffusion models by changing their noise.

    Attributes:
        alpha: in [0, 1]; 1 is no step credit.
    """

    alpha: float = 0.0

    needs_x0 = False

    def __call__(self, trajectory: Trajectory, advantage: Tensor) -> Tensor:
        """(Trajectory, advantage (B,)) -> (B, T)."""
        return scale(trajectory, advantage, step_size_weights(trajectory.schedule), self.alpha)

    def diagnostics(self, trajectory: Trajectory) -> dict[str, float]:
        return {}
