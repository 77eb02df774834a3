"""Images as other libraries want them."""

import numpy as np
import torch
from PIL import Image
from torch import Tensor


def to_uint8(images: Tensor) -> np.ndarray:
    """8-bit pixels: round(255 x), clamped to 0..255.

    Args:
        images: (B, 3, H, W), nominally in [0, 1], any float dtype and device.

    Returns:
        (B, H, W, 3), uint8, contiguous.

    Raises:
        ValueError: another shape, or an image that is not finite (its pixels would be arbitrary, not wrong-looking).
    """
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"images have shape {tuple(images.shape)}, expected (B, 3, H, W)")
    wrong = (~images.flatten(1).isfinite().all(1)).nonzero().flatten().tolist()
    if wrong:
        raise ValueError(f"images {wrong[:8]} are not finite, expected values in [0, 1]: has the model diverged?")
    pixels = (images.detach().float() * 255).round().clamp(0, 255).to(torch.uint8)
    return pixels.permute(0, 2, 3, 1).contiguous().cpu().numpy()


def to_pil(images: Tensor) -> list[Image.Image]:
    """`to_uint8` as B RGB pictures of PIL."""
    return [Image.fromarray(pixels) for pixels in to_uint8(images)]
