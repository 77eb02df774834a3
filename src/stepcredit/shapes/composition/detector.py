"""Find the objects in pictures of the composition world: their shape, color and place. It has no weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from stepcredit.errors import InputError
from stepcredit.shapes.composition.claims import SHAPES
from stepcredit.shapes.composition.scenes import PALETTE, SIZE, coverage

FOREGROUND = 0.30
"""A pixel belongs to an object if its RGB distance from the background is larger than this."""

MIN_AREA = 9
"""Pixels. Smaller regions are not taken for objects."""

MAX_COLOR_DISTANCE = 0.30
"""An object has no color word if its median color is farther than this from all of them (RGB distance)."""

MIN_PURITY = 0.75
"""An object has no color word if less than this share of its pixels is nearest to that color."""

MIN_OVERLAP = 0.82
"""An object has no shape word if it overlaps less than this (intersection over union) with every shape, drawn at its
place and with its area."""

MIN_LEAD = 0.03
"""An object has no shape word if its largest overlap exceeds the second largest by less than this."""


@dataclass(frozen=True)
class Detection:
    """One object in a picture.

    Attributes:
        shape: index into SHAPES; None if it is none of them.
        color: index into COLORS; None if it is none of them.
        x, y: center of mass in pixels, 0 at the left and at the top.
        area: in pixels, with partly covered pixels counted in part.
        overlap: the largest overlap with a shape, intersection over union.
        color_distance: RGB distance of its median color from the nearest color word.
    """

    shape: int | None
    color: int | None
    x: float
    y: float
    area: float
    overlap: float = 1.0
    color_distance: float = 0.0


def detect(images: Tensor) -> list[list[Detection]]:
    """The objects in each picture.

    The background is the median color of the border. Objects are connected regions of other pixels. The shape of an
    object is the one whose drawing, at the same center and with the same area, overlaps most with it.

    Args:
        images: (B, 3, 32, 32) in [0, 1].

    Raises:
        InputError: images of another size.
    """
    if images.ndim != 4 or tuple(images.shape[1:]) != (3, SIZE, SIZE):
        raise InputError(
            f"images have shape {tuple(images.shape)}, expected (B, 3, {SIZE}, {SIZE}): the composition world is "
            f"{SIZE} x {SIZE} pixels; train a bundled model of it, or choose another reward"
        )
    pictures = images.detach().float().cpu().clamp(0, 1).permute(0, 2, 3, 1).numpy()
    regions = [region for row, picture in enumerate(pictures) for region in _regions(row, picture)]
    found: list[list[Detection]] = [[] for _ in pictures]
    for region, shape, (x, y, area, overlap) in zip(regions, *_shapes([each.alpha for each in regions]), strict=True):
        found[region.row].append(Detection(shape, region.color, x, y, area, overlap, region.color_distance))
    return found


def border(picture: np.ndarray) -> np.ndarray:
    """The outermost pixels (124,3) of a picture (32,32,3)."""
    return np.concatenate([picture[0], picture[-1], picture[1:-1, 0], picture[1:-1, -1]])


@dataclass(frozen=True)
class _Region:
    row: int
    color: int | None
    color_distance: float
    alpha: np.ndarray
    """(32, 32): the share of each pixel that the object covers, by its color between background and object."""


def _regions(row: int, picture: np.ndarray) -> list[_Region]:
    background = np.median(border(picture), axis=0)
    distance = np.linalg.norm(picture - background, axis=2)
    labels, count = ndimage.label(distance > FOREGROUND)
    return [
        _region(row, picture, background, distance, labels, label)
        for label in range(1, count + 1)
        if (labels == label).sum() >= MIN_AREA
    ]


def _region(
    row: int, picture: np.ndarray, background: np.ndarray, distance: np.ndarray, labels: np.ndarray, label: int
) -> _Region:
    inside = labels == label
    solid = inside & (distance > 0.75 * np.quantile(distance[inside], 0.8))  # without pixels that are partly covered
    color = np.median(picture[solid], axis=0)
    step = color - background
    near = ndimage.binary_dilation(inside, np.ones((3, 3))) & (inside | (labels == 0))
    alpha = np.clip((picture - background) @ step / (step @ step), 0, 1) * near
    return _Region(row, *_color(picture[solid], color), alpha)


def _color(pixels: np.ndarray, median: np.ndarray) -> tuple[int | None, float]:
    """The color word, and how far the median color is from it."""
    palette = PALETTE.numpy()
    distance = np.linalg.norm(palette - median, axis=1)
    nearest = int(distance.argmin())
    votes = np.linalg.norm(pixels[:, None] - palette, axis=2).argmin(axis=1)
    pure = (votes == nearest).mean() >= MIN_PURITY
    clear = pure and distance[nearest] <= MAX_COLOR_DISTANCE
    return nearest if clear else None, float(distance[nearest])


def _shapes(alphas: Sequence[np.ndarray]) -> tuple[list[int | None], list[tuple[float, float, float, float]]]:
    """The shape, and (x, y, area, overlap), of each object."""
    if not alphas:
        return [], []
    alpha = torch.from_numpy(np.stack(alphas)).float()
    pixel = torch.arange(SIZE) + 0.5
    area = alpha.sum((1, 2))
    x = (alpha.sum(1) * pixel).sum(1) / area
    y = (alpha.sum(2) * pixel).sum(1) / area
    overlaps = []
    for shape, (unit_area, offset) in enumerate(_unit_shapes()):
        radius = (area / unit_area).sqrt()
        drawn = coverage(torch.full((len(alpha),), shape), torch.stack([x, y - offset * radius], 1), radius)
        overlaps.append(torch.minimum(alpha, drawn).sum((1, 2)) / torch.maximum(alpha, drawn).sum((1, 2)))
    best, order = torch.stack(overlaps, 1).sort(1, descending=True)
    clear = (best[:, 0] >= MIN_OVERLAP) & (best[:, 0] - best[:, 1] >= MIN_LEAD)
    words = [int(first) if sure else None for first, sure in zip(order[:, 0], clear, strict=True)]
    return words, list(zip(x.tolist(), y.tolist(), area.tolist(), best[:, 0].tolist(), strict=True))


@cache
def _unit_shapes() -> list[tuple[float, float]]:
    """For each shape of radius 1: its area, and how far its center of mass lies below its center."""
    radius, middle = 10.0, SIZE / 2
    count = len(SHAPES)
    drawn = coverage(torch.arange(count), torch.full((count, 2), middle), torch.full((count,), radius))
    pixel = torch.arange(SIZE) + 0.5
    area = drawn.sum((1, 2))
    below = (drawn.sum(2) * pixel).sum(1) / area - middle
    return [(float(a) / radius**2, float(b) / radius) for a, b in zip(area, below, strict=True)]
