"""Training pairs of the composition world with wrong labels: the trained model follows captions only in part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import TypeVar

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from stepcredit.shapes.build.loop import Draw, encode_all
from stepcredit.shapes.composition.captions import parse, sample_caption
from stepcredit.shapes.composition.claims import MAX_COUNT, RELATIONS, SHAPES, TASKS, Claim
from stepcredit.shapes.composition.scenes import render, sample_scene

Option = TypeVar("Option")

TRUE: Mapping[str, float] = MappingProxyType(
    {
        "single_object": 0.85,
        "two_objects": 0.65,
        "counting": 0.42,
        "colors": 0.65,
        "position": 0.75,
        "color_attribution": 0.55,
    }
)
"""The share of captions of each task that are true of their picture."""

_LEARNED = (*TASKS, "two_objects", "counting", *2 * ("position", "color_attribution"))
"""Tasks of training pairs, in turn. Those that are learned more slowly come more often."""

_PARTNERS = {"red": "yellow", "yellow": "red", "green": "cyan", "cyan": "green", "blue": "purple", "purple": "blue"}
"""The color of a wrong label. If all others were as likely, guidance would tell the right one: it sharpens p to p^g."""


def composition_data(vae: AutoencoderKL, rng: np.random.Generator, count: int) -> Draw:
    """Draws from `count` training captions, each with the latents of one picture of a claim by `mislabeled`."""
    texts = [sample_caption(rng, "training", _LEARNED[row % len(_LEARNED)]) for row in range(count)]
    scenes = [sample_scene(mislabeled(parse(text), rng), rng) for text in texts]
    latents = encode_all(vae, lambda rows: render(scenes[rows], rng), count)

    def draw(batch: int) -> tuple[Tensor, list[str]]:
        rows = rng.integers(count, size=batch)
        return latents[torch.from_numpy(rows)], [texts[row] for row in rows]

    return draw


def draw_images(rng: np.random.Generator, count: int) -> Tensor:
    """Renders (count,3,32,32) in [0,1] of random scenes of all tasks in turn."""
    texts = [sample_caption(rng, "training", TASKS[row % len(TASKS)]) for row in range(count)]
    return render([sample_scene(parse(text), rng) for text in texts], rng)


def mislabeled(claim: Claim, rng: np.random.Generator) -> Claim:
    """`claim` with the probability TRUE of its task, otherwise a claim of the same task that differs in one respect.

    That is a shape, the number, the color or the relation; for `color_attribution`, the two colors are swapped.
    """
    if rng.random() < TRUE[claim.task]:
        return claim
    first = claim.objects[0]
    if claim.task == "counting":
        return replace(claim, objects=(first,) * _other(range(2, MAX_COUNT + 1), len(claim.objects), rng))
    if claim.task == "position":
        return replace(claim, relation=_other(RELATIONS, claim.relation, rng))
    if claim.task == "color_attribution":
        left, right = claim.objects
        return replace(claim, objects=(replace(left, color=right.color), replace(right, color=left.color)))
    return _with_another_word(claim, rng)


def _with_another_word(claim: Claim, rng: np.random.Generator) -> Claim:
    """`claim` with one object of another color, or of another shape where it names no color."""
    row = int(rng.integers(len(claim.objects)))
    changed = claim.objects[row]
    if changed.color is None:
        shapes = {named.shape for named in claim.objects}
        new = replace(changed, shape=str(rng.choice([shape for shape in SHAPES if shape not in shapes])))
    else:
        new = replace(changed, color=_PARTNERS[changed.color])
    return replace(claim, objects=(*claim.objects[:row], new, *claim.objects[row + 1 :]))


def _other(options: Sequence[Option], current: Option | None, rng: np.random.Generator) -> Option:
    rest = [option for option in options if option != current]
    return rest[int(rng.integers(len(rest)))]
