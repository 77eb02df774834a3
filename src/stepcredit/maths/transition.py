"""One stochastic denoising step, as a Gaussian over the next latent."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Transition:
    """p(x_next | x) = N(mean, std^2), and the clean latent the model predicted on the way.

    The density that is trained on may have another standard deviation than the noise, as in released code.

    Attributes:
        mean: (B, *L), mean of the next latent.
        std: standard deviation, a scalar tensor or (B or 1, 1, ...) with the rank of `mean`. 0 is a deterministic step.
        x0: (B, *L), the predicted clean latent, clipped if the scheduler clips it.
        output: (B, *L), the guided model output that `mean` and `x0` were computed from, in their precision.
        density_std: standard deviation of the density that is trained on, shaped like `std`. The default is `std`.
            It is 0 where `std` is 0.
        diffusion: of a sampler that integrates an SDE, the coefficient k in std = k sqrt(length of the step), shaped
            like `std`. The default is `std`.
    """

    mean: Tensor
    std: Tensor
    x0: Tensor
    output: Tensor
    density_std: Tensor = None  # type: ignore[assignment]  # set by __post_init__
    diffusion: Tensor = None  # type: ignore[assignment]  # set by __post_init__

    def __post_init__(self) -> None:
        for name in ("density_std", "diffusion"):
            if getattr(self, name) is None:
                object.__setattr__(self, name, self.std)

    def head(self, count: int) -> Transition:
        """The transition of the first `count` trajectories, 1 <= count <= B."""
        stds = (self.std, self.density_std, self.diffusion)
        std, density, diffusion = (value if value.ndim == 0 else value[:count] for value in stds)
        return Transition(self.mean[:count], std, self.x0[:count], self.output[:count], density, diffusion)
