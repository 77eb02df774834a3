"""CoCA on the layout of the image instead of its colors and textures."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from stepcredit.credit import WeightRule, register_credit
from stepcredit.credit._similarity import predictions, similarity_metrics
from stepcredit.maths.credit import contribution_weights, cosine_to_final, mean_over_batch
from stepcredit.maths.layout import layout
from stepcredit.types import Trajectory


@register_credit("layout-contribution")
@dataclass(frozen=True)
class LayoutContribution(WeightRule):
    """CoCA on the layout of the image: cosines of coarse cells, minus the mean of each channel.

        s_i = cos(f(x0_i), f(x_T)),   f = `maths.layout.layout`

    then w, G and M as in `contribution`. The cosine of whole latents mostly reflects their colors, which are settled
    early. What a reward for composition, legibility or faithfulness looks at may be settled later.

    Source: ours.
    Degenerate case: a trajectory whose total gain is below 1e-6 gets `linear` credit and counts in `credit_fallbacks`.

    Attributes:
        window: steps per window; T or more is `linear`.
        alpha: in [0, 1]; 1 is no step credit.
        clamp: set negative gains to zero; otherwise G may exceed 1.
        cells: cells per side that latents (B, C, H, W) are averaged to; see `layout` for other latents.
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

    def weights(self, trajectory: Trajectory) -> Tensor:
        weights = contribution_weights(self._similarity(trajectory), self.window, self.clamp)
        return mean_over_batch(weights) if self.batch_mean else weights

    def diagnostics(self, trajectory: Trajectory) -> dict[str, float]:
        return similarity_metrics(self._similarity(trajectory), self.window)

    def _similarity(self, trajectory: Trajectory) -> Tensor:
        x0 = predictions(trajectory)
        features = layout(x0.flatten(0, 1), self.cells).unflatten(0, x0.shape[:2])
        return cosine_to_final(features, layout(trajectory.final, self.cells))
