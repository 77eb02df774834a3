"""No credit for the last steps, equal credit for all others."""

from dataclasses import dataclass

from torch import Tensor

from stepcredit.credit import FactorRule, register_credit
from stepcredit.errors import InputError
from stepcredit.maths.schedules import kept_steps
from stepcredit.types import Trajectory


@register_credit("drop-last")
@dataclass(frozen=True)
class DropLast(FactorRule):
    """The last k trained steps get no credit; all others get the same.

        m_i = n / (n - k) for the first n - k of n trained steps, else 0,   M_i = A (alpha + (1 - alpha) m_i)

    A control for the late steps, whose log-probabilities have the largest gradients.

    Source: ours.
    Degenerate case: k = 0 is `uniform`.

    Attributes:
        k: at least 0, and below the number of trained steps.
        alpha: in [0, 1]; 1 is no step credit.
    """

    k: int = 2
    alpha: float = 0.0

    def __post_init__(self) -> None:
        if not isinstance(self.k, int) or self.k < 0:
            raise InputError(f"credit.options.k is {self.k}, expected a whole number of steps, 0 or more")

    def factors(self, trajectory: Trajectory) -> Tensor:
        trained = int(trajectory.trainable.sum())
        if self.k >= trained:
            raise InputError(f"credit.options.k is {self.k} but only {trained} steps are trained: leave at least one")
        return kept_steps(trajectory.trainable, self.k)
