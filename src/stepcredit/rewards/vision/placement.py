"""Where a learned reward runs, how precisely, and how many images at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from stepcredit.errors import InputError, unknown
from stepcredit.rewards.vision.images import Images

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Placement:
    """Where a learned reward runs, how precisely, and how many images at a time."""

    device: torch.device
    dtype: torch.dtype
    batch_size: int

    def scores(
        self, score: Callable[[Images, Sequence[str]], Tensor], images: Images, prompts: Sequence[str]
    ) -> Tensor:
        """`score` of batches of `batch_size` images and prompts, joined: (B,), float32, on the CPU, no gradients.

        Raises:
            ValueError: not as many prompts as images.
        """
        if len(images) != len(prompts):
            raise ValueError(f"{len(images)} images and {len(prompts)} prompts, expected as many of each")
        parts = [torch.empty(0)]
        with torch.inference_mode():
            for start in range(0, len(prompts), self.batch_size):
                rows = slice(start, start + self.batch_size)
                parts.append(score(images[rows], prompts[rows]).float().cpu())
        return torch.cat(parts)


def place(device: str, dtype: str, batch_size: int) -> Placement:
    """The placement that a reward's options ask for.

    Args:
        device: `auto` (CUDA where there is one, else the CPU), cpu, cuda or cuda:N.
        dtype: float32, bfloat16 or float16.
        batch_size: at least 1.

    Raises:
        InputError: a device that is not there, another dtype, or no batch size.
    """
    if dtype not in _DTYPES:
        raise unknown("dtype", str(dtype), _DTYPES)
    if not isinstance(batch_size, int) or isinstance(batch_size, bool) or batch_size < 1:
        raise InputError(f"batch_size is {batch_size!r}, expected a whole number from 1 on")
    return Placement(_device(device), _DTYPES[dtype], batch_size)


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError) as error:
        raise InputError(f"device is {name!r}, expected auto, cpu, cuda or cuda:N") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InputError(f"device is '{name}' but this machine has {torch.cuda.device_count()} CUDA devices")
    return device
