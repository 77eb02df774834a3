"""Flips and recolorings of an image that leave some preferences unchanged."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Augmentation:
    """Maps images (B,3,H,W) in [0,1] to images of the same range.

    Attributes:
        flipped: the axes to flip, out of 2 and 3.
        transposed: whether to swap axes 2 and 3 after the flips.
        channels: the new order of the channels.
        inverted: whether to return 1 - image.
    """

    flipped: tuple[int, ...] = ()
    transposed: bool = False
    channels: tuple[int, ...] = (0, 1, 2)
    inverted: bool = False

    def __call__(self, images: Tensor) -> Tensor:
        images = images.flip(self.flipped)
        images = images.transpose(2, 3) if self.transposed else images
        images = images[:, list(self.channels)]
        return 1 - images if self.inverted else images


FLIPS = tuple((flipped, transposed) for flipped in ((), (2,), (3,), (2, 3)) for transposed in (False, True))
RECOLORINGS = tuple((order, inverted) for order in itertools.permutations(range(3)) for inverted in (False, True))
TEST_TIME = tuple(
    Augmentation(*flip, *recoloring) for flip, recoloring in zip(itertools.cycle(FLIPS), RECOLORINGS, strict=False)
)
"""Each of the 12 recolorings once, combined with the 8 flips in turn."""
