"""Changes of an image that a rule of taste does not mind: mirrored, channels exchanged, colors inverted."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Variation:
    """Images (B,3,H,W) in [0,1] to such.

    Attributes:
        mirrored: axes to flip, of 2 and 3; `transposed`: whether both then change places.
        channels: the order of the channels; `inverted`: whether 1 - image is taken.
    """

    mirrored: tuple[int, ...] = ()
    transposed: bool = False
    channels: tuple[int, ...] = (0, 1, 2)
    inverted: bool = False

    def __call__(self, images: Tensor) -> Tensor:
        images = images.flip(self.mirrored)
        images = images.transpose(2, 3) if self.transposed else images
        images = images[:, list(self.channels)]
        return 1 - images if self.inverted else images


MIRRORINGS = tuple((mirrored, transposed) for mirrored in ((), (2,), (3,), (2, 3)) for transposed in (False, True))
RECOLORINGS = tuple((order, inverted) for order in itertools.permutations(range(3)) for inverted in (False, True))
SPREAD = tuple(
    Variation(*mirroring, *recoloring)
    for mirroring, recoloring in zip(itertools.cycle(MIRRORINGS), RECOLORINGS, strict=False)
)
"""Each of the 12 recolorings once, the 8 mirrorings in turn."""
