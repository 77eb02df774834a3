"""No credit for the last steps, the same for all others."""

from dataclasses import dataclass

from torch import Tensor

from stepcredit.credit import CREDIT
from stepcredit.credit._common import scale
from stepcredit.errors import InputError
from stepcredit.maths.schedules import kept_steps
from stepcredit.types import Trajectory


@CREDIT.register("drop-last")
@dataclass(frozen=True)
class DropLast:
    """The last k trained steps are left out; the others get the same.

        M_i = A (alpha + (1 - alpha) m_i),   m_i = n / (n - k) for the first n - k of n trainable steps, else 0

    A control for the late steps, whose log-probabilities have the largest gradients. Ours, no source. Degenerate case:
    k = 0 is `uniform`.

    Attributes:
        k: at least 0, and below the number of trainable steps.
        alpha: in [0, 1]; 1 is no step credit.
    """

    k: int = 2
    alpha: float = 0.0

    needs_x0 = False

    def __post_init__(self) -> None:
        if not isinstance(self.k, int) or self.k < 0:
            raise InputError(f"credit.options.k is {self.k}, expected a whole number of steps, 0 or more")

    def __call__(self, trajectory: Trajectory, advantage: Tensor) -> Tensor:
        """(Trajectory, advantage (B,)) -> (B, T)."""
        trained = int(trajectory.trainable.sum())
        if self.k >= trained:
            raise InputError(f"credit.options.k is {self.k} but only {trained} steps are trained: leave at least one")
        return scale(trajectory, advantage, kept_steps(trajectory.trainable, self.k), self.alpha)

    def diagnostics(self, trajectory: Trajectory) -> dict[str, float]:
        return {}
