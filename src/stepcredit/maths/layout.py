"""What of a latent says where things are: its coarse cells, without color and texture."""

import torch
from torch import Tensor

from stepcredit.maths._checks import require_dims, upcast


def layout(latents: Tensor, cells: int) -> Tensor:
    """Latents averaged over a coarse grid, less each channel's own mean.

    Averaging takes away texture, the mean over places takes away what is the same everywhere, most of all color. Ours,
    no source.

    Args:
        latents: (N, C, H, W), or (N, tokens, C) of models that pack them, which have no grid here and are only freed of
            their mean over tokens. Others, (N, L), are taken as they are.
        cells: at least 1; a side of more places is averaged to so many cells.

    Returns:
        (N, F), float32 or more.

    Raises:
        ValueError: cells < 1.

    Degenerate: a latent that is the same everywhere, and any at cells = 1, gives zeros, up to rounding.
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
