"""Rows and steps of recorded tensors."""

from __future__ import annotations

import torch
from torch import Tensor


def entries(values: Tensor, rows: Tensor, steps: Tensor) -> Tensor:
    """`values[rows, steps]`, (n, ...), on the device of `values`. Copying the indices does not block a CUDA stream."""
    device, non_blocking = values.device, values.device.type == "cuda"
    return values[rows.to(device, non_blocking=non_blocking), steps.to(device, non_blocking=non_blocking)]


def filled(batch: Tensor, size: int) -> Tensor:
    """`batch` (n, ...) extended to `size` entries with copies of its last one.

    Kernels may round differently for different batch sizes, so a replay uses the batch size of the rollout.
    """
    return torch.cat([batch, batch[-1:].expand(size - len(batch), *batch.shape[1:])])
