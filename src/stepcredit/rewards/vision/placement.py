"""Device, dtype and batch size of a learned reward."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from stepcredit.errors import InputError, unknown
from stepcredit.rewards.vision.images import Images
from stepcredit.utils.devices import find_device

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Placement:
    """Device, dtype and batch size of a learned reward."""

    device: torch.device
    dtype: torch.dtype
    batch_size: int

    def scores(
        self, score: Callable[[Images, Sequence[str]], Tensor], images: Images, prompts: Sequence[str]
    ) -> Tensor:
        """Apply `score` to batches of `batch_size` images and prompts: (B,), float32, on the CPU, without gradients.

        Raises:
            ValueError: the numbers of images and prompts differ.
        """
        if len(images) != len(prompts):
            raise ValueError(f"got {len(images)} images and {len(prompts)} prompts, expected the same number")
        parts = [torch.empty(0)]
        with torch.inference_mode():
            for start in range(0, len(prompts), self.batch_size):
                rows = slice(start, start + self.batch_size)
                parts.append(score(images[rows], prompts[rows]).float().cpu())
        return torch.cat(parts)


def place(device: str, dtype: str, batch_size: int) -> Placement:
    """The placement for a reward's options.

    Args:
        device: `auto` (CUDA if available, else the CPU), cpu, cuda, xpu, mps, or one of several, such as cuda:1.
        dtype: float32, bfloat16 or float16.
        batch_size: at least 1.

    Raises:
        InputError: a device that this machine does not have, another dtype, or a batch size below 1.
    """
    if dtype not in _DTYPES:
        raise unknown("dtype", str(dtype), _DTYPES)
    if not isinstance(batch_size, int) or isinstance(batch_size, bool) or batch_size < 1:
        raise InputError(f"batch_size is {batch_size!r}, expected an integer of at least 1")
    return Placement(find_device(device, "device"), _DTYPES[dtype], batch_size)
