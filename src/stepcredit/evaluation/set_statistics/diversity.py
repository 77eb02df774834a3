"""How much the images of one prompt differ. They often become similar when a reward is over-optimized."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from stepcredit.evaluation.set_statistics import PerPrompt, register_set_statistic
from stepcredit.stats.intervals import mean_pairwise_distance

Embedding = Callable[[Tensor], Tensor]
"""Maps images (B,3,H,W) in [0,1] to points (B, D). The Euclidean distance of two points measures how much the images
differ."""
SIZE = 32
ONE_IMAGE = "diversity needs at least two images per prompt: use --images 2 or more"


def thumbnail(images: Tensor) -> Tensor:
    """Map images (B,3,H,W) to points (B, 3 * 32 * 32) whose distance is the root mean square pixel difference, 0 to 1.

    Images of any size are first averaged down to 32 x 32. Smaller images are enlarged by repeating pixels.
    """
    points: Tensor = adaptive_avg_pool2d(images.detach().float().cpu(), SIZE).flatten(1)
    return points / math.sqrt(points.shape[1])


@register_set_statistic("diversity")
class DiversityMeter:
    """Mean pairwise distance between the images of each prompt. Keeps the points of one prompt in memory.

    Args:
        count: images per prompt. One image has no distance.
        embed: maps images to points.
    """

    label: ClassVar[str] = "diversity"
    meaning: ClassVar[str] = (
        "mean distance of the images of one prompt: root mean square difference of pixels in [0, 1], averaged down to "
        f"{SIZE} x {SIZE}"
    )
    baselines: ClassVar[Mapping[str, str]] = {}

    def __init__(self, count: int, embed: Embedding = thumbnail) -> None:
        self._count = count
        self._embed = embed
        self._pending: list[Tensor] = []
        self._distances: list[float | None] = []

    def add(self, images: Tensor, prompts: Sequence[str]) -> None:
        for point in self._embed(images):
            self._pending.append(point)
            if len(self._pending) == self._count:
                self._distances.append(mean_pairwise_distance(torch.stack(self._pending)))
                self._pending.clear()

    def value(self) -> PerPrompt:
        return PerPrompt(self._distances, ONE_IMAGE if self._count == 1 else "")
