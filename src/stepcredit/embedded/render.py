"""Draw scenes as 32x32 images, a batch at a time, from signed distances (anti-aliased without supersampling)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from stepcredit.embedded.world import ATTRIBUTES, COLOURS, Scene

SIZE = 32
_RGB = {
    "red": (215, 40, 40),
    "green": (40, 165, 60),
    "blue": (40, 70, 220),
    "yellow": (240, 220, 50),
    "purple": (150, 40, 180),
    "cyan": (60, 205, 220),
    "white": (245, 245, 245),
    "black": (20, 20, 20),
}
_PALETTE = torch.tensor([_RGB[name] for name in COLOURS], dtype=torch.float32) / 255
_OFFSET = {"left": (-7, 0), "right": (7, 0), "top": (0, -7), "bottom": (0, 7), "center": (0, 0)}
_OFFSETS = torch.tensor([_OFFSET[name] for name in ATTRIBUTES["position"]], dtype=torch.float32)
_RADII = torch.tensor([6.0, 9.0])
_HALF_BAND = 3.5


def render(scenes: Sequence[Scene], rng: np.random.Generator) -> Tensor:
    """Images (B,3,32,32) in [0,1] of `scenes`.

    `rng` jitters what a caption does not fix: centre by up to 1 pixel, radius by up to 0.5 pixel, each colour channel
    by up to 0.03.
    """
    batch = len(scenes)
    labels = {name: torch.tensor([scene.labels()[name] for scene in scenes]) for name in ATTRIBUTES}

    def jitter(*shape: int, scale: float) -> Tensor:
        return torch.from_numpy(rng.uniform(-scale, scale, size=shape).astype(np.float32))

    centre = SIZE / 2 + _OFFSETS[labels["position"]] + jitter(batch, 2, scale=1.0)
    radius = (_RADII[labels["size"]] + jitter(batch, scale=0.5)).view(batch, 1, 1)
    pixel = torch.arange(SIZE) + 0.5
    x = pixel.view(1, 1, SIZE) - centre[:, 0].view(batch, 1, 1)
    y = pixel.view(1, SIZE, 1) - centre[:, 1].view(batch, 1, 1)

    distances = torch.stack(_distances(x, y, radius))
    inside = (0.5 - distances[labels["shape"], torch.arange(batch)]).clamp(0, 1).unsqueeze(1)
    shade = _texture(x, y, labels["texture"]).unsqueeze(1)

    foreground = _colour(labels["foreground"], jitter(batch, 3, scale=0.03))
    background = _colour(labels["background"], jitter(batch, 3, scale=0.03))
    opposite = (labels["foreground"] == COLOURS.index("black")).float().view(batch, 1, 1, 1)
    painted = foreground * (1 - shade) + opposite * shade
    return (inside * painted + (1 - inside) * background).clamp(0, 1)


def _colour(labels: Tensor, jitter: Tensor) -> Tensor:
    return (_PALETTE[labels] + jitter).clamp(0, 1).view(-1, 3, 1, 1)


def _distances(x: Tensor, y: Tensor, radius: Tensor) -> tuple[Tensor, ...]:
    """Signed distance in pixels (negative inside) to each shape, in the order of ATTRIBUTES["shape"]."""
    x, y = torch.broadcast_tensors(x, y)
    circle = (x.square() + y.square()).sqrt() - radius
    square = torch.maximum(x.abs(), y.abs()) - 0.9 * radius
    half = 0.65 * radius
    triangle = torch.maximum(y - half, 0.866 * x.abs() - 0.5 * y - half) - 0.05 * radius
    arm = 0.4 * radius
    cross = torch.minimum(
        torch.maximum(x.abs() - radius, y.abs() - arm), torch.maximum(x.abs() - arm, y.abs() - radius)
    )
    return circle, square, triangle, cross


def _texture(x: Tensor, y: Tensor, labels: Tensor) -> Tensor:
    """How much of the opposite shade covers each pixel: 0 for solid, bands or checks of 0.5 otherwise."""
    x, y = torch.broadcast_tensors(x, y)
    row = torch.floor(y / _HALF_BAND) % 2
    column = torch.floor(x / _HALF_BAND) % 2
    choices = torch.stack([torch.zeros_like(row), row, (row + column) % 2])
    return 0.5 * choices[labels, torch.arange(len(labels))]
