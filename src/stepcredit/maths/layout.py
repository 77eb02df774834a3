"""The layout of a latent: its coarse cells, without color and texture."""

import torch
from torch import Tensor

from stepcredit.maths._checks import require_dims, upcast


def layout(latents: Tensor, cells: int) -> Tensor:
    """Latents averaged over a coarse grid, minus the mean of each channel.

    The average removes texture. Subtracting the mean over positions removes what is the same everywhere, above all
    color. Source: ours.

    Args:
        latents: (N, C, H, W). Packed latents (N, tokens, C) are not averaged; only their mean over tokens is
            subtracted. Latents (N, L) do not change.
        cells: at least 1; a longer side is averaged to this number of cells.

    Returns:
        (N, F), float32 or more.

    Raises:
        ValueError: cells < 1.

    Degenerate: a constant latent, and any latent at cells = 1, gives 0 up to rounding.
    """
    if cells < 1:
        raise ValueError(f"cells is {cells}, expected at least 1")
    require_dims("latents", latents, 2, "(N, *L)", exact=False)
    values = upcast(latents)
    if values.ndim == 4:
        grid = min(cells, values.shape[2]), min(cells, values.shape[3])
        values = torch.nn.functional.adaptive_avg_pool2d(values, grid)
        values = values - values.mean((2, 3), keepdim=True)
    elif values.ndim == 3:
        values = values - values.mean(1, keepdim=True)
    return values.flatten(1)
