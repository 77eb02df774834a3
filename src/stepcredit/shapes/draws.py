"""NumPy's random numbers as float32 tensors: one generator then fixes scenes, captions and pixels alike."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def uniform(rng: np.random.Generator, low: float, high: float, *shape: int) -> Tensor:
    """Between `low` and `high`."""
    return torch.from_numpy(rng.uniform(low, high, size=shape).astype(np.float32))


def normal(rng: np.random.Generator, *shape: int) -> Tensor:
    """Of mean 0 and standard deviation 1."""
    return torch.from_numpy(rng.standard_normal(shape, dtype=np.float32))


def chosen(rng: np.random.Generator, chance: float, *shape: int) -> Tensor:
    """Of bool, True with probability `chance`."""
    return torch.from_numpy(rng.random(shape) < chance)
