"""How much the images of one prompt differ. They often become similar when a reward is over-optimized."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from stepcredit.stats.intervals import mean_pairwise_distance

Embedding = Callable[[Tensor], Tensor]
"""Maps images (B,3,H,W) in [0,1] to points (B, D). The Euclidean distance of two points measures how much the images
differ."""
SIZE = 32
METRIC = f"root mean square difference of pixels in [0, 1], averaged down to {SIZE} x {SIZE}"


def thumbnail(images: Tensor) -> Tensor:
    """Map images (B,3,H,W) to points (B, 3 * 32 * 32) whose distance is the root mean square pixel difference, 0 to 1.

    Images of any size are first averaged down to 32 x 32. Smaller images are enlarged by repeating pixels.
    """
    points: Tensor = adaptive_avg_pool2d(images.detach().float().cpu(), SIZE).flatten(1)
    return points / math.sqrt(points.shape[1])


class DiversityMeter:
    """Mean pairwise distance between the images of each prompt. Keeps the points of one prompt in memory.

    Args:
        count: images per prompt; the images of a prompt are consecutive.
        embed: maps images to points.

    Attributes:
        distances: one for each complete prompt; None if `count` is 1.
    """

    def __init__(self, count: int, embed: Embedding) -> None:
        self._count = count
        self._embed = embed
        self._pending: list[Tensor] = []
        self.distances: list[float | None] = []

    def add(self, images: Tensor) -> None:
        """Add the next images. A batch may span several prompts or end within one."""
        for point in self._embed(images):
            self._pending.append(point)
            if len(self._pending) == self._count:
                self.distances.append(mean_pairwise_distance(torch.stack(self._pending)))
                self._pending.clear()
