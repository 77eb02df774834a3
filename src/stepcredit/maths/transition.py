"""One stochastic denoising step, as a Gaussian over the next latent."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Transition:
    """p(x_next | x) = N(mean, std^2), and the clean latent the model predicted on the way.

    Attributes:
        mean: (B, *L), mean of the next latent.
        std: standard deviation, a scalar tensor or (B or 1, 1, ...) with the rank of `mean`. 0 is a deterministic step.
        x0: (B, *L), the predicted clean latent, unclipped.
        output: (B, *L), the guided model output that `mean` and `x0` were computed from, in their precision.
    """

    mean: Tensor
    std: Tensor
    x0: Tensor
    output: Tensor

    def head(self, count: int) -> Transition:
        """The transition of the first `count` trajectories, 1 <= count <= B."""
        std = self.std if self.std.ndim == 0 else self.std[:count]
        return Transition(self.mean[:count], std, self.x0[:count], self.output[:count])
