"""How different the images of one prompt are: a reward that is hacked often makes them all alike."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from stepcredit.stats.intervals import mean_pairwise_distance

Embedding = Callable[[Tensor], Tensor]
"""(images (B,3,H,W) in [0,1]) -> points (B, D) whose Euclidean distance says how different two images are."""
SIZE = 32
SPACE = f"root mean square difference of pixels in [0, 1], averaged down to {SIZE} x {SIZE}"


def thumbnail(images: Tensor) -> Tensor:
    """Points (B, 3 * 32 * 32) whose distance is the root mean square difference of the pixels, from 0 to 1.

    Images of any size and shape are averaged to 32 x 32 first, smaller ones repeated up to it.
    """
    points: Tensor = adaptive_avg_pool2d(images.detach().float().cpu(), SIZE).flatten(1)
    return points / math.sqrt(points.shape[1])


class Spread:
    """Mean pairwise distance of the images of each prompt; the points of one prompt are in memory at a time.

    Args:
        count: images per prompt, which come one after the other.
        embed: the space in which distances are taken.
    """

    def __init__(self, count: int, embed: Embedding) -> None:
        self._count = count
        self._embed = embed
        self._waiting: list[Tensor] = []
        self.distances: list[float | None] = []

    def add(self, images: Tensor) -> None:
        """The next images, of however many prompts."""
        for point in self._embed(images):
            self._waiting.append(point)
            if len(self._waiting) == self._count:
                self.distances.append(mean_pairwise_distance(torch.stack(self._waiting)))
                self._waiting.clear()
