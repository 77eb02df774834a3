"""One stochastic denoising step, as a Gaussian over the next latent."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Transition:
    """p(x_next | x) = N(mean, std^2), and the clean latent the model predicted on the way.

    Attributes:
        mean: (B, *L), mean of the next latent.
        std: standard deviation, a scalar tensor or (B or 1, 1, ...) with the rank of `mean`. 0 is a deterministic step.
        x0: (B, *L), the predicted clean latent, unclipped.
    """

    mean: Tensor
    std: Tensor
    x0: Tensor
