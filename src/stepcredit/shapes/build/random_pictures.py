"""Pictures for the preference data: as in the caption, close to it, and ones that no caption describes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace

import numpy as np
import torch
from torch import Tensor

from stepcredit.shapes.random_tensors import bernoulli, uniform
from stepcredit.shapes.render import PALETTE, SIZE, Pictures, measures
from stepcredit.shapes.world import ATTRIBUTES, Scene

MAX_CHANGES = 3


def draw_pictures(scenes: Sequence[Scene], rng: np.random.Generator) -> tuple[Pictures, Tensor]:
    """One picture per scene: with equal probability the scene, a perturbed scene, or a random picture.

    Returns:
        The pictures, and which of them (B,) are scenes of the world. The autoencoder distorts the others.
    """
    kind = torch.from_numpy(rng.integers(3, size=len(scenes)))
    pictured = [
        perturbed_scene(scene, rng) if perturbed else scene for scene, perturbed in zip(scenes, kind == 1, strict=True)
    ]
    return where(kind == 2, random_pictures(len(scenes), rng), measures(pictured, rng)), kind != 2


def perturbed_scene(scene: Scene, rng: np.random.Generator) -> Scene:
    """`scene` with 1 to MAX_CHANGES different attributes. Foreground and background stay different colors."""
    names = rng.choice(list(ATTRIBUTES), size=rng.integers(1, MAX_CHANGES + 1), replace=False)
    for name in names:
        taken = {getattr(scene, name)} | ({scene.foreground, scene.background} if name.endswith("ground") else set())
        scene = replace(scene, **{name: str(rng.choice([word for word in ATTRIBUTES[name] if word not in taken]))})
    return scene


def random_pictures(count: int, rng: np.random.Generator) -> Pictures:
    """`count` random pictures: centers up to 10 pixels from the middle on each axis, radii of 4 to 12, any colors."""
    return Pictures(
        torch.from_numpy(rng.integers(len(ATTRIBUTES["shape"]), size=count)),
        torch.from_numpy(rng.integers(len(ATTRIBUTES["texture"]), size=count)),
        SIZE / 2 + uniform(rng, -10, 10, count, 2),
        uniform(rng, 4, 12, count),
        random_colors(count, rng),
        random_colors(count, rng),
    )


def random_colors(count: int, rng: np.random.Generator) -> Tensor:
    """(count,3): half near a word's color, half uniform, with the contrast scaled by a factor of 0.5 to 1.6."""
    near = PALETTE[torch.from_numpy(rng.integers(len(PALETTE), size=count))] + uniform(rng, -0.15, 0.15, count, 3)
    anywhere = uniform(rng, 0, 1, count, 3)
    color = near.where(bernoulli(rng, 0.5, count, 1), anywhere)
    return (0.5 + (color - 0.5) * uniform(rng, 0.5, 1.6, count, 1)).clamp(0, 1)


def where(rows: Tensor, left: Pictures, right: Pictures) -> Pictures:
    """`left` where `rows` (B,) is True, elsewhere `right`."""

    def select(name: str) -> Tensor:
        first, second = getattr(left, name), getattr(right, name)
        return torch.where(rows.view(-1, *[1] * (first.ndim - 1)), first, second)

    return Pictures(**{field.name: select(field.name) for field in fields(Pictures)})


def select_rows(pictures: Pictures, rows: Tensor) -> Pictures:
    """The pictures at the indices `rows` (B,)."""
    return Pictures(**{field.name: getattr(pictures, field.name)[rows] for field in fields(Pictures)})


def concatenate(parts: Sequence[Pictures]) -> Pictures:
    """The pictures of all `parts` in order."""
    return Pictures(
        **{field.name: torch.cat([getattr(part, field.name) for part in parts]) for field in fields(Pictures)}
    )
