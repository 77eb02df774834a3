"""Draw batches of scenes as 32x32 images from signed distances, anti-aliased without supersampling."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from stepcredit.shapes.random_tensors import uniform
from stepcredit.shapes.world import ATTRIBUTES, COLORS, Scene

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
PALETTE = torch.tensor([_RGB[name] for name in COLORS], dtype=torch.float32) / 255
"""(8,3): the color of each word of COLORS."""
_OFFSET = {"left": (-7, 0), "right": (7, 0), "top": (0, -7), "bottom": (0, 7), "center": (0, 0)}
CENTERS = SIZE / 2 + torch.tensor([_OFFSET[name] for name in ATTRIBUTES["position"]], dtype=torch.float32)
"""(5,2): x and y in pixels of each position."""
RADII = torch.tensor([6.0, 9.0])
"""(2,): pixels of each size."""
TEXTURE_MIX = 0.5
_DARK = 0.25
_HALF_BAND = 3.5


@dataclass(frozen=True)
class Pictures:
    """B pictures of one shape each, given by exact measures. A scene is a picture whose measures have words.

    Attributes:
        shape, texture: (B,), indices into ATTRIBUTES.
        center: (B,2), x and y of the shape's center in pixels, 0 at the left and at the top.
        radius: (B,), in pixels.
        foreground, background: (B,3), colors in [0,1].
    """

    shape: Tensor
    texture: Tensor
    center: Tensor
    radius: Tensor
    foreground: Tensor
    background: Tensor

    def __len__(self) -> int:
        return len(self.shape)

    @property
    def opposite(self) -> Tensor:
        """(B,), the gray that textures mix into the foreground: white (1) for a dark foreground, else black (0)."""
        return (self.foreground.amax(1) < _DARK).float()

    @property
    def shade(self) -> Tensor:
        """(B,3), the second color of striped and checkered shapes."""
        return (1 - TEXTURE_MIX) * self.foreground + TEXTURE_MIX * self.opposite.unsqueeze(1)


def measures(scenes: Sequence[Scene], rng: np.random.Generator) -> Pictures:
    """The pictures of `scenes`.

    `rng` adds jitter, which no caption describes: up to 1 pixel to the center, 0.5 pixel to the radius and 0.03 to
    each color channel.
    """
    batch = len(scenes)
    labels = {name: torch.tensor([scene.labels()[name] for scene in scenes]) for name in ATTRIBUTES}
    return Pictures(
        labels["shape"],
        labels["texture"],
        CENTERS[labels["position"]] + uniform(rng, -1, 1, batch, 2),
        RADII[labels["size"]] + uniform(rng, -0.5, 0.5, batch),
        (PALETTE[labels["foreground"]] + uniform(rng, -0.03, 0.03, batch, 3)).clamp(0, 1),
        (PALETTE[labels["background"]] + uniform(rng, -0.03, 0.03, batch, 3)).clamp(0, 1),
    )


def render(scenes: Sequence[Scene], rng: np.random.Generator) -> Tensor:
    """Images (B,3,32,32) in [0,1] of `scenes`, jittered as in `measures`."""
    return paint(measures(scenes, rng))


def paint(pictures: Pictures) -> Tensor:
    """Images (B,3,32,32) in [0,1] of `pictures`."""
    x, y = _offsets(pictures)
    inside = coverage(pictures).unsqueeze(1)
    mix = _texture(x, y, pictures.texture).unsqueeze(1)
    foreground, background = (color.view(-1, 3, 1, 1) for color in (pictures.foreground, pictures.background))
    painted = foreground * (1 - mix) + pictures.opposite.view(-1, 1, 1, 1) * mix
    return (inside * painted + (1 - inside) * background).clamp(0, 1)


def coverage(pictures: Pictures) -> Tensor:
    """(B,32,32), the share of each pixel that the shape covers."""
    x, y = _offsets(pictures)
    distances = torch.stack(signed_distances(x, y, pictures.radius.view(-1, 1, 1)))
    return (0.5 - distances[pictures.shape, torch.arange(len(pictures))]).clamp(0, 1)


def _offsets(pictures: Pictures) -> tuple[Tensor, Tensor]:
    """The offsets x (B,1,32) and y (B,32,1) of the pixels from the shape's center."""
    pixel = torch.arange(SIZE) + 0.5
    x = pixel.view(1, 1, SIZE) - pictures.center[:, 0].view(-1, 1, 1)
    y = pixel.view(1, SIZE, 1) - pictures.center[:, 1].view(-1, 1, 1)
    return x, y


def signed_distances(x: Tensor, y: Tensor, radius: Tensor) -> tuple[Tensor, ...]:
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
    """The share of the second color in each pixel: 0 for solid, bands or checks of TEXTURE_MIX otherwise."""
    x, y = torch.broadcast_tensors(x, y)
    row = torch.floor(y / _HALF_BAND) % 2
    column = torch.floor(x / _HALF_BAND) % 2
    choices = torch.stack([torch.zeros_like(row), row, (row + column) % 2])
    return TEXTURE_MIX * choices[labels, torch.arange(len(labels))]
