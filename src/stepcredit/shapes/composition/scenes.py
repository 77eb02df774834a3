"""Draw scenes of the composition world: 32 x 32 pictures of one to four objects that do not touch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from stepcredit.shapes.composition.claims import COLORS, RELATIONS, SHAPES, Claim
from stepcredit.shapes.random_tensors import uniform
from stepcredit.shapes.render import PALETTE as ALL_COLORS
from stepcredit.shapes.render import signed_distances
from stepcredit.shapes.world import COLORS as ALL_NAMES

SIZE = 32
PALETTE = ALL_COLORS[[ALL_NAMES.index(color) for color in COLORS]]
"""(6,3): the color of each word of COLORS."""

RADII = {1: (5.0, 8.0), 2: (4.8, 5.8), 3: (4.5, 5.1), 4: (4.3, 4.7)}
"""Pixels, lowest and highest, by the number of objects."""

BACKGROUND = (0.80, 0.95)
MARGIN = 1.2
"""Pixels between an object and the border, at least."""

GAP = 2.0
"""Pixels between the circles around two objects, at least. Their radii are 1.15 times those of the objects."""

CLEAR = 4.0
"""Pixels by which the distance along one axis exceeds that along the other, at least, so that a relation is clear."""


@dataclass(frozen=True)
class Object:
    """One object of a scene.

    Attributes:
        shape, color: indices into SHAPES and COLORS.
        x, y: center in pixels, 0 at the left and at the top.
        radius: in pixels.
    """

    shape: int
    color: int
    x: float
    y: float
    radius: float


Scene = tuple[Object, ...]


def sample_scene(claim: Claim, rng: np.random.Generator) -> Scene:
    """A random scene of which the claim is true. What the claim leaves open is random.

    Objects of one shape that are counted have one color each, drawn independently.
    """
    shapes = [SHAPES.index(named.shape) for named in claim.objects]
    colors = [
        int(rng.integers(len(COLORS))) if named.color is None else COLORS.index(named.color) for named in claim.objects
    ]
    places = _places(len(shapes), rng)
    if claim.relation is not None:
        places = _in_relation(places, claim.relation, rng)
    return tuple(Object(shape, color, *place) for shape, color, place in zip(shapes, colors, places, strict=True))


def render(scenes: Sequence[Scene], rng: np.random.Generator) -> Tensor:
    """Images (B,3,32,32) in [0,1] of `scenes`.

    `rng` draws what no caption describes: the background, a light gray with a tint of up to 0.02, and up to 0.03 in
    each channel of an object's color.
    """
    gray = uniform(rng, *BACKGROUND, len(scenes), 1) + uniform(rng, -0.02, 0.02, len(scenes), 3)
    images = gray.view(-1, 3, 1, 1).expand(-1, 3, SIZE, SIZE).clone()
    owners = torch.tensor([row for row, scene in enumerate(scenes) for _ in scene])
    objects = [each for scene in scenes for each in scene]
    colors = PALETTE[[each.color for each in objects]] + uniform(rng, -0.03, 0.03, len(objects), 3)
    inside = coverage(
        torch.tensor([each.shape for each in objects]),
        torch.tensor([(each.x, each.y) for each in objects]),
        torch.tensor([each.radius for each in objects]),
    )
    added = inside.unsqueeze(1) * (colors.clamp(0, 1) - gray[owners]).view(-1, 3, 1, 1)
    return images.index_add(0, owners, added).clamp(0, 1)


def coverage(shape: Tensor, center: Tensor, radius: Tensor) -> Tensor:
    """(N,32,32): the share of each pixel that an object covers.

    Args:
        shape: (N,), indices into SHAPES.
        center: (N,2), x and y in pixels.
        radius: (N,), in pixels.
    """
    pixel = torch.arange(SIZE) + 0.5
    x = pixel.view(1, 1, SIZE) - center[:, 0].view(-1, 1, 1)
    y = pixel.view(1, SIZE, 1) - center[:, 1].view(-1, 1, 1)
    distances = torch.stack(signed_distances(x, y, radius.view(-1, 1, 1)))
    return (0.5 - distances[shape, torch.arange(len(shape))]).clamp(0, 1)


Place = tuple[float, float, float]
"""x, y and radius."""


def _places(count: int, rng: np.random.Generator) -> list[Place]:
    while True:
        radii = rng.uniform(*RADII[count], count)
        for _ in range(50):
            centers = rng.uniform(radii + MARGIN, SIZE - radii - MARGIN, (2, count)).T
            if _apart(centers, radii):
                return [(float(x), float(y), float(r)) for (x, y), r in zip(centers, radii, strict=True)]


def _apart(centers: np.ndarray, radii: np.ndarray) -> bool:
    return all(
        np.hypot(*(centers[i] - centers[j])) >= 1.15 * (radii[i] + radii[j]) + GAP
        for i in range(len(radii))
        for j in range(i)
    )


def _in_relation(places: list[Place], relation: str, rng: np.random.Generator) -> list[Place]:
    """Two places of which the first stands in the relation to the second."""
    while True:
        first, second = places
        across, down = first[0] - second[0], first[1] - second[1]
        horizontal = RELATIONS.index(relation) < 2
        along, other = (across, down) if horizontal else (down, across)
        if abs(along) >= abs(other) + CLEAR:
            right_order = (along < 0) == (relation in ("left of", "above"))
            return places if right_order else [second, first]
        places = _places(2, rng)
