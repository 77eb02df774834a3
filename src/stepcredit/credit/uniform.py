"""No step credit: DDPO."""

from dataclasses import dataclass

from torch import Tensor

from stepcredit.credit import CREDIT
from stepcredit.credit._common import spread
from stepcredit.maths.credit import uniform_weights
from stepcredit.types import Trajectory


@CREDIT.register("uniform")
@dataclass(frozen=True)
class Uniform:
    """Every step gets the whole advantage, as in DDPO.

        M_i = A

    Source: DDPO, arXiv 2305.13301. In the language of weights all weight lies on the last step, so that the
    reward-to-go is 1 everywhere and alpha changes nothing. Degenerate case: none.
    """

    needs_x0 = False

    def __call__(self, trajectory: Trajectory, advantage: Tensor) -> Tensor:
        """(Trajectory, advantage (B,)) -> (B, T), bitwise the advantage."""
        return spread(trajectory, advantage, uniform_weights(trajectory.steps), alpha=1.0)

    def diagnostics(self, trajectory: Trajectory) -> dict[str, float]:
        return {}
