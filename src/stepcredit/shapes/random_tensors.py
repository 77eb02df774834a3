"""Float32 tensors from a NumPy generator, so that one generator determines scenes, captions and pixels."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def uniform(rng: np.random.Generator, low: float, high: float, *shape: int) -> Tensor:
    """Uniform numbers in [low, high)."""
    return torch.from_numpy(rng.uniform(low, high, size=shape).astype(np.float32))


def normal(rng: np.random.Generator, *shape: int) -> Tensor:
    """Standard normal numbers."""
    return torch.from_numpy(rng.standard_normal(shape, dtype=np.float32))


def bernoulli(rng: np.random.Generator, probability: float, *shape: int) -> Tensor:
    """Booleans that are True with the given probability."""
    return torch.from_numpy(rng.random(shape) < probability)
