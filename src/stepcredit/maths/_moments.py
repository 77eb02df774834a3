"""Mean and standard deviation of rewards and step advantages, in float64 on the CPU.

Any float32 is small enough to be squared here; float64 beyond 1e150 is not.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

EPSILON = 1e-6
"""Added to every standard deviation before dividing, as in the released code of CoCA."""


def checked_values(name: str, tensor: Tensor) -> Tensor:
    """Return `tensor` as float64 on the CPU, after checking that it has entries and all are finite."""
    if tensor.numel() == 0:
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}, expected at least one entry")
    values = tensor.detach().cpu().double()
    if not values.isfinite().all():
        rows = sorted(set((~values.isfinite()).nonzero()[:, 0].tolist()))
        raise ValueError(f"{name} is not finite in rows {rows}, expected numbers: repair or drop those trajectories")
    return values


def rows_by_name(name: str, names: Sequence[str], count: int) -> dict[str, list[int]]:
    """Return {name: its row indices}, in order of first appearance."""
    if isinstance(names, str) or len(names) != count:
        raise ValueError(f"{name} has {len(names)} names for {count} trajectories: give a list with one name for each")
    rows: dict[str, list[int]] = {}
    for row, key in enumerate(names):
        rows.setdefault(key, []).append(row)
    return rows


def moments(values: Tensor, unbiased: bool = False) -> tuple[Tensor, Tensor]:
    """Return mean and std over the last dimension, exact where all values are equal.

    Args:
        unbiased: divide by n - 1; by default the population std divides by n.
    """
    constant = values.amax(-1) == values.amin(-1)
    mean = torch.where(constant, values[..., 0], values.mean(-1))
    std = values.std(-1, correction=int(unbiased and values.shape[-1] > 1)).masked_fill(constant, 0.0)
    return mean, std


def as_float(source: Tensor, values: Tensor) -> Tensor:
    """`values` in float32, on the device of `source`."""
    return values.float().to(source.device)
