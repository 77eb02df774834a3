"""Images with an alpha channel as RGB images."""

from __future__ import annotations

from torch import Tensor

CHANNELS = (3, 4)
"""RGB, and RGB with alpha."""


def to_rgb(images: Tensor) -> Tensor:
    """Images over a white background: alpha RGB + (1 - alpha), in float32 or float64.

    Args:
        images: (B, 3 or 4, H, W) in [0, 1]; the fourth channel is alpha.

    Returns:
        (B, 3, H, W). Equal to the first three channels where alpha is 1, or if there is no alpha.
    """
    images = images if images.element_size() > 4 else images.float()
    rgb, alpha = images[:, :3], images[:, 3:]
    return alpha * rgb + (1 - alpha) if alpha.shape[1] else rgb
