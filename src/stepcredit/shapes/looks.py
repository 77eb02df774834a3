"""What the preference scorers take from an image beside convolutions: where they look, and how colors relate."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STEM, WIDE = 32, 56
"""Channels of the scorer's first convolution, at 16x16, and of its last, at 8x8."""
_GAZES, _CELLS = 16, 12
_PAIRS, _PLANES = 12, 4


class Gaze(nn.Module):
    """The mean color and place (B,maps,5) that each of a few attention maps of side x side looks at.

    Every map begins by looking for a color, far along a random direction: so of two colors it tells one from the
    other before anything is learned.
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
        place = (torch.arange(self.side, device=images.device) + 0.5) / (self.side / 2) - 1
        places = torch.stack(torch.meshgrid(place, place, indexing="ij")).expand(len(images), 2, *size)
        looked_at = torch.cat([colors, places], 1).flatten(2).transpose(1, 2)
        seen: Tensor = maps.flatten(2).softmax(2) @ looked_at
        return seen


class Products(nn.Module):
    """Products of two linear maps, normalized per image: angles and distances of colors are made of such."""

    def __init__(self, features: int, out: int) -> None:
        super().__init__()
        self.factors, self.norm = nn.Linear(features, 2 * out), nn.LayerNorm(out)

    def forward(self, features: Tensor) -> Tensor:
        left, right = self.factors(features).chunk(2, 1)
        product: Tensor = self.norm(left * right)
        return product


class Overview(nn.Module):
    """Colors and places of a few gazes, their products, and a coarse map: (B,features)."""

    features = 5 * _GAZES + 48 + 16 * _CELLS
    hidden = 64

    def __init__(self) -> None:
        super().__init__()
        self.places = nn.Conv2d(WIDE, _CELLS, 1)
        self.gaze = Gaze(_GAZES, 16)
        self.products = nn.Sequential(Products(5 * _GAZES, 48), Products(48, 48))

    def forward(self, images: Tensor, near: Tensor, far: Tensor) -> Tensor:
        seen = self.gaze(images, near, far).flatten(1)
        return torch.cat([seen, self.products(seen), F.adaptive_avg_pool2d(self.places(far), 4).flatten(1)], 1)


class Hues(nn.Module):
    """Pairs of colors that opposite gazes find, their products, and the angles between them: (B,features).

    A few linear maps, the same for all pairs, take both colors to points p and q of a plane each, of which there are

        a, a cos D, a cos 2D,        a = sqrt(min(1, |p|) min(1, |q|)),  D the angle between p and q

    for every pair, and in two means over the pairs, weighted by the softmax of how far apart the colors are.
    """

    features = 6 * _PAIRS + 48 + 3 * _PLANES * (_PAIRS + 2) + _PAIRS
    hidden = 80

    def __init__(self) -> None:
        super().__init__()
        self.gaze = Gaze(2 * _PAIRS, 32)
        with torch.no_grad():
            self.gaze.color.weight[_PAIRS:] = -self.gaze.color.weight[:_PAIRS]
        self.products = nn.Sequential(Products(6 * _PAIRS, 48), Products(48, 48))
        self.planes = nn.Linear(3, 2 * _PLANES)
        self.sharpness = nn.Parameter(torch.tensor([1.0, 4.0]))

    def forward(self, images: Tensor, near: Tensor, far: Tensor) -> Tensor:
        colors = self.gaze(images, near, far)[:, :, :3]
        left, right = colors.split(_PAIRS, 1)
        angles = self._angles(left, right)
        apart = (left - right).square().sum(2)
        weights = (self.sharpness.view(1, 2, 1) * apart.unsqueeze(1)).softmax(2)
        seen = colors.flatten(1)
        return torch.cat(
            [seen, self.products(seen), angles.flatten(1), apart, (weights @ angles.flatten(2)).flatten(1)], 1
        )

    def _angles(self, left: Tensor, right: Tensor) -> Tensor:
        """(B,pairs,3) colors to (B,pairs,planes,3)."""
        p, q = (self.planes(colors).unflatten(2, (_PLANES, 2)) for colors in (left, right))
        lengths = [(point.square().sum(3) + 1e-4).sqrt() for point in (p, q)]
        cosine = (p * q).sum(3) / (lengths[0] * lengths[1])
        size = (lengths[0].clamp_max(1) * lengths[1].clamp_max(1)).sqrt()
        return torch.stack([size, size * cosine, size * (2 * cosine.square() - 1)], 3)
