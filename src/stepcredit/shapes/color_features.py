"""Features of an image's colors for the preference scorers, in addition to those of their convolutions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STEM, WIDE = 32, 56
"""Channels of the scorer's first convolution, at 16x16, and of its last, at 8x8."""
_MAPS, _CELLS = 16, 12
_PAIRS, _PLANES = 12, 4


class ColorAttention(nn.Module):
    """The mean color and position (B,maps,5) under each of several attention maps of side x side pixels.

    Each map starts as a random direction in color space with a large weight. So two different colors get different
    maps even before training.
    """

    def __init__(self, maps: int, side: int) -> None:
        super().__init__()
        self.side = side
        self.color = nn.Conv2d(3, maps, 1)
        nn.init.normal_(self.color.weight, std=8)
        self.near, self.far = nn.Conv2d(STEM, maps, 1), nn.Conv2d(WIDE, maps, 1)

    def forward(self, images: Tensor, near: Tensor, far: Tensor) -> Tensor:
        size = (self.side, self.side)
        colors = F.adaptive_avg_pool2d(images, size)
        maps = self.color(colors) + F.interpolate(self.near(near), size) + F.interpolate(self.far(far), size)
        position = (torch.arange(self.side, device=images.device) + 0.5) / (self.side / 2) - 1
        positions = torch.stack(torch.meshgrid(position, position, indexing="ij")).expand(len(images), 2, *size)
        values = torch.cat([colors, positions], 1).flatten(2).transpose(1, 2)
        attended: Tensor = maps.flatten(2).softmax(2) @ values
        return attended


class BilinearFeatures(nn.Module):
    """Products of two linear maps, normalized per image. They can express angles and distances between colors."""

    def __init__(self, features: int, out: int) -> None:
        super().__init__()
        self.factors, self.norm = nn.Linear(features, 2 * out), nn.LayerNorm(out)

    def forward(self, features: Tensor) -> Tensor:
        left, right = self.factors(features).chunk(2, 1)
        product: Tensor = self.norm(left * right)
        return product


class ImageFeatures(nn.Module):
    """Attended colors and positions, their products, and a coarse feature map: (B,features)."""

    features = 5 * _MAPS + 48 + 16 * _CELLS
    hidden = 64

    def __init__(self) -> None:
        super().__init__()
        self.places = nn.Conv2d(WIDE, _CELLS, 1)
        self.gaze = ColorAttention(_MAPS, 16)
        self.products = nn.Sequential(BilinearFeatures(5 * _MAPS, 48), BilinearFeatures(48, 48))

    def forward(self, images: Tensor, near: Tensor, far: Tensor) -> Tensor:
        attended = self.gaze(images, near, far).flatten(1)
        coarse = F.adaptive_avg_pool2d(self.places(far), 4).flatten(1)
        return torch.cat([attended, self.products(attended), coarse], 1)


class HueFeatures(nn.Module):
    """Pairs of attended colors, their products, and the angles between their hues: (B,features).

    The attention maps come in pairs of opposite initial directions. A few linear maps, shared by all pairs, project
    both colors of a pair to points p and q of a plane. The features of a pair and a plane are

        a, a cos D, a cos 2D,        a = sqrt(min(1, |p|) min(1, |q|)),  D the angle between p and q

    In addition there are two means of these over the pairs, weighted by the softmax of the distance between the two
    colors.
    """

    features = 6 * _PAIRS + 48 + 3 * _PLANES * (_PAIRS + 2) + _PAIRS
    hidden = 80

    def __init__(self) -> None:
        super().__init__()
        self.gaze = ColorAttention(2 * _PAIRS, 32)
        with torch.no_grad():
            self.gaze.color.weight[_PAIRS:] = -self.gaze.color.weight[:_PAIRS]
        self.products = nn.Sequential(BilinearFeatures(6 * _PAIRS, 48), BilinearFeatures(48, 48))
        self.planes = nn.Linear(3, 2 * _PLANES)
        self.sharpness = nn.Parameter(torch.tensor([1.0, 4.0]))

    def forward(self, images: Tensor, near: Tensor, far: Tensor) -> Tensor:
        colors = self.gaze(images, near, far)[:, :, :3]
        left, right = colors.split(_PAIRS, 1)
        angles = self.angles(left, right)
        distances = (left - right).square().sum(2)
        weights = (self.sharpness.view(1, 2, 1) * distances.unsqueeze(1)).softmax(2)
        means = (weights @ angles.flatten(2)).flatten(1)
        attended = colors.flatten(1)
        return torch.cat([attended, self.products(attended), angles.flatten(1), distances, means], 1)

    def angles(self, left: Tensor, right: Tensor) -> Tensor:
        """The features (B,pairs,planes,3) of pairs of colors, each (B,pairs,3)."""
        p, q = (self.planes(colors).unflatten(2, (_PLANES, 2)) for colors in (left, right))
        lengths = [(point.square().sum(3) + 1e-4).sqrt() for point in (p, q)]
        cosine = (p * q).sum(3) / (lengths[0] * lengths[1])
        size = (lengths[0].clamp_max(1) * lengths[1].clamp_max(1)).sqrt()
        return torch.stack([size, size * cosine, size * (2 * cosine.square() - 1)], 3)
