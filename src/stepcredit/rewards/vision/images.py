"""Conversions of images to 8-bit arrays and PIL images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

Images = Tensor | Sequence[Image.Image]
"""(B, 3, H, W), floats in [0, 1] or uint8, on any device; or B PIL images of any size and mode."""


def to_uint8(images: Tensor) -> np.ndarray:
    """8-bit pixels: round(255 x), clamped to 0..255; uint8 pixels unchanged.

    Args:
        images: (B, 3, H, W), uint8, or any float dtype and nominally in [0, 1]; any device.

    Returns:
        (B, H, W, 3), uint8, contiguous.

    Raises:
        ValueError: another shape, or an image that is not finite, whose pixels would be arbitrary.
    """
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"images have shape {tuple(images.shape)}, expected (B, 3, H, W)")
    pixels = images.detach()
    if pixels.dtype != torch.uint8:
        wrong = (~images.flatten(1).isfinite().all(1)).nonzero().flatten().tolist()
        if wrong:
            raise ValueError(f"images {wrong[:8]} are not finite, expected values in [0, 1]: has the model diverged?")
        pixels = (pixels.float() * 255).round().clamp(0, 255).to(torch.uint8)
    return pixels.permute(0, 2, 3, 1).contiguous().cpu().numpy()


def to_pil(images: Images) -> list[Image.Image]:
    """B RGB PIL images: `to_uint8` of a tensor; PIL images are converted to RGB, which drops transparency."""
    if isinstance(images, Tensor):
        return [Image.fromarray(pixels) for pixels in to_uint8(images)]
    return [picture.convert("RGB") for picture in images]
