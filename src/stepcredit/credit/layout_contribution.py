"""CoCA measured on where things are, not on color and texture."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from stepcredit.credit import CREDIT
from stepcredit.credit._common import predictions, similarity_figures, spread
from stepcredit.maths.credit import contribution_weights, cosine_to_final, mean_over_batch
from stepcredit.maths.layout import layout
from stepcredit.types import Trajectory


@CREDIT.register("layout-contribution")
@dataclass(frozen=True)
class LayoutContribution:
    """CoCA measured on where things are: cosines of coarse cells, less each channel's mean.

        s_i = cos(f(x0_i), f(x_T)),   f = `maths.layout.layout`

    then w, G and M as in `contribution`. A latent's cosine is mostly that of its colors, and these are settled early;
    a reward for composition, legibility or faithfulness may not be. Ours, no source.
    Degenerate case: a trajectory whose total gain is below 1e-6 gets `linear` credit and is counted.

    Attributes:
        window, alpha, clamp: as for `contribution`.
        cells: per side that latents (B, C, H, W) are averaged to; see `layout` for others.
        batch_mean: give all trajectories the mean w of the batch.
    """

    window: int = 5
    alpha: float = 0.0
    clamp: bool = False
    cells: int = 4
    batch_mean: bool = False

    needs_x0 = True

    def __post_init__(self) -> None:
        if self.cells < 2:
            raise ValueError(f"credit.options.cells is {self.cells}, expected 2 or more: one cell has no layout")

    @property
    def compares_images(self) -> bool:
        return self.batch_mean

    def __call__(self, trajectory: Trajectory, advantage: Tensor) -> Tensor:
        """(Trajectory with x0, advantage (B,)) -> (B, T)."""
        weights = contribution_weights(self._similarity(trajectory), self.window, self.clamp)
        return spread(trajectory, advantage, mean_over_batch(weights) if self.batch_mean else weights, self.alpha)

    def diagnostics(self, trajectory: Trajectory) -> dict[str, float]:
        return similarity_figures(self._similarity(trajectory), self.window)

    def _similarity(self, trajectory: Trajectory) -> Tensor:
        x0 = predictions(trajectory)
        features = layout(x0.flatten(0, 1), self.cells).unflatten(0, x0.shape[:2])
        return cosine_to_final(features, layout(trajectory.final, self.cells))
