"""How far pictures of the composition world are from real renders, in features of the detector."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from stepcredit.maths.frechet import frechet_distance
from stepcredit.shapes.composition.captions import parse
from stepcredit.shapes.composition.claims import COLORS
from stepcredit.shapes.composition.detector import Detection, border, detect
from stepcredit.shapes.composition.scenes import SIZE, render, sample_scene

_SCALES = {
    **dict.fromkeys(("background red", "background green", "background blue"), 0.05),
    "background noise": 0.01,
    "contrast": 0.005,
    "objects": 0.5,
    "area": 30.0,
    "overlap with a shape": 0.05,
    "distance from a color": 0.03,
    **dict.fromkeys(("x", "y"), 0.1),
    **dict.fromkeys(COLORS, 0.5),
}
"""What each feature is divided by: about the smallest change of its mean over many pictures that is plainly visible.

The standard deviations of the renders are no measure, because what does not vary in renders, such as the overlap with a
shape (0.003), would outweigh everything else.
"""

FEATURES = tuple(_SCALES)
"""What `features` returns, in this order."""

_REFERENCE, _FRESH = 0, 1
"""Seeds of the renders that others are compared with, and of other renders."""


def realism(images: Tensor, captions: Sequence[str]) -> float:
    """The Fréchet distance between pictures and fresh renders of the same captions; 0 for the same distribution.

    A shift of the mean of one feature by its scale (0.05 for the overlap with a shape) counts 1. The renders are the
    same at every call with the same captions.

    Args:
        images: (B, 3, 32, 32) in [0, 1], B at least 2.
        captions: B captions of the composition world.
    """
    return distance_from_renders(features(images), captions)


def distance_from_renders(points: Tensor, captions: Sequence[str]) -> float:
    """`realism` of pictures of which only the `features` (B, F) are there."""
    renders = _rendered_features(tuple(captions), _REFERENCE)
    scales = torch.tensor(list(_SCALES.values()))
    return frechet_distance(points / scales, renders / scales)


def distance_of_renders(captions: Sequence[str]) -> float:
    """`realism` of further renders of the captions, at least 2: what pictures of a perfect model would have."""
    return distance_from_renders(_rendered_features(tuple(captions), _FRESH), captions)


@lru_cache(maxsize=16)
def _rendered_features(captions: tuple[str, ...], seed: int) -> Tensor:
    """The features (B, F) of a random render of each caption."""
    rng = np.random.default_rng(seed)
    return features(render([sample_scene(parse(caption), rng) for caption in captions], rng))


def features(images: Tensor) -> Tensor:
    """(B, F): the FEATURES of pictures (B,3,32,32) in [0, 1].

    The background is the median color of the border, its noise the mean absolute deviation from that. `objects` is
    their number; area (pixels), overlap, distance from a color, x and y are means over the objects, 0 without objects.
    `contrast` is the mean absolute difference of neighboring pixels over the number of objects: blurred or pale
    pictures have less. A color is the number of objects of it.
    """
    return torch.stack(
        [
            torch.cat([_background(picture), _contrast(picture, len(found)), _objects(found)])
            for picture, found in zip(images.detach().float().cpu().clamp(0, 1), detect(images), strict=True)
        ]
    )


def _background(picture: Tensor) -> Tensor:
    pixels = torch.from_numpy(border(picture.permute(1, 2, 0).numpy()))
    color = pixels.median(0).values
    return torch.cat([color, (pixels - color).abs().mean().unsqueeze(0)])


def _contrast(picture: Tensor, objects: int) -> Tensor:
    steps = picture.diff(dim=1).abs().mean() + picture.diff(dim=2).abs().mean()
    return (steps / max(objects, 1)).unsqueeze(0)


def _objects(found: Sequence[Detection]) -> Tensor:
    rows = [(each.area, each.overlap, each.color_distance, each.x / SIZE, each.y / SIZE) for each in found]
    means = torch.tensor(rows).mean(0) if rows else torch.zeros(5)
    colors = torch.tensor([float(sum(each.color == color for each in found)) for color in range(len(COLORS))])
    return torch.cat([torch.tensor([float(len(found))]), means, colors])
