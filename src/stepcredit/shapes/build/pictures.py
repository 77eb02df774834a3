"""Pictures for preferences: what a caption asks for, something near it, and shapes that no caption describes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace

import numpy as np
import torch
from torch import Tensor

from stepcredit.shapes.draws import chosen, uniform
from stepcredit.shapes.render import PALETTE, SIZE, Pictures, measures
from stepcredit.shapes.world import ATTRIBUTES, Scene

MOST_CHANGES = 3


def draw_pictures(scenes: Sequence[Scene], rng: np.random.Generator) -> tuple[Pictures, Tensor]:
    """One picture per scene: itself, with up to MOST_CHANGES words changed, or anything at all, a third of each.

    Returns:
        The pictures, and which of them (B,) are scenes of the world: the autoencoder distorts any others.
    """
    kind = torch.from_numpy(rng.integers(3, size=len(scenes)))
    meant = [altered(scene, rng) if changed else scene for scene, changed in zip(scenes, kind == 1, strict=True)]
    return choose(kind == 2, anything(len(scenes), rng), measures(meant, rng)), kind != 2


def altered(scene: Scene, rng: np.random.Generator) -> Scene:
    """`scene` with 1 to MOST_CHANGES attributes drawn anew, foreground and background still different."""
    names = rng.choice(list(ATTRIBUTES), size=rng.integers(1, MOST_CHANGES + 1), replace=False)
    for name in names:
        taken = {getattr(scene, name)} | ({scene.foreground, scene.background} if name.endswith("ground") else set())
        scene = replace(scene, **{name: str(rng.choice([word for word in ATTRIBUTES[name] if word not in taken]))})
    return scene


def anything(count: int, rng: np.random.Generator) -> Pictures:
    """`count` pictures off the caption's grid: centers to 10 pixels from the middle, radii of 4 to 12, any colors."""
    return Pictures(
        torch.from_numpy(rng.integers(len(ATTRIBUTES["shape"]), size=count)),
        torch.from_numpy(rng.integers(len(ATTRIBUTES["texture"]), size=count)),
        SIZE / 2 + uniform(rng, -10, 10, count, 2),
        uniform(rng, 4, 12, count),
        any_color(count, rng),
        any_color(count, rng),
    )


def any_color(count: int, rng: np.random.Generator) -> Tensor:
    """(count,3): half near a word's color, half uniform, then paler or stronger by a random factor of 0.5 to 1.6."""
    near = PALETTE[torch.from_numpy(rng.integers(len(PALETTE), size=count))] + uniform(rng, -0.15, 0.15, count, 3)
    free = uniform(rng, 0, 1, count, 3)
    color = near.where(chosen(rng, 0.5, count, 1), free)
    return (0.5 + (color - 0.5) * uniform(rng, 0.5, 1.6, count, 1)).clamp(0, 1)


def choose(rows: Tensor, left: Pictures, right: Pictures) -> Pictures:
    """`left` where `rows` (B,) is True, elsewhere `right`."""

    def one(name: str) -> Tensor:
        first, second = getattr(left, name), getattr(right, name)
        return torch.where(rows.view(-1, *[1] * (first.ndim - 1)), first, second)

    return Pictures(**{field.name: one(field.name) for field in fields(Pictures)})


def take(pictures: Pictures, rows: Tensor) -> Pictures:
    """Those of `rows`, (B,) indices."""
    return Pictures(**{field.name: getattr(pictures, field.name)[rows] for field in fields(Pictures)})


def join(parts: Sequence[Pictures]) -> Pictures:
    """All of `parts`, one after another."""
    return Pictures(
        **{field.name: torch.cat([getattr(part, field.name) for part in parts]) for field in fields(Pictures)}
    )
