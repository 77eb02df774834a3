"""Images with captions, their utilities under the hidden rules, and the choices of a noisy judge."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from stepcredit.maths.preference import probability
from stepcredit.shapes.build.autoencoder import decode, encode
from stepcredit.shapes.build.corruptions import (
    INVISIBLE,
    LATENT_CORRUPTIONS,
    MIXES_PICTURES,
    PIXEL_CORRUPTIONS,
    Corruption,
    damage,
)
from stepcredit.shapes.build.random_pictures import concatenate, draw_pictures, random_colors
from stepcredit.shapes.random_tensors import bernoulli
from stepcredit.shapes.render import Pictures, paint
from stepcredit.shapes.rules import RULES, utility, visibility
from stepcredit.shapes.world import Scene, sample_caption, sample_scene

CHUNK = 256
SAFE, EMPTY, UNCHANGED, THROUGH_AUTOENCODER = 0.5, 0.1, 1 / 3, 0.6
CORRUPTIONS = ("", *PIXEL_CORRUPTIONS, *LATENT_CORRUPTIONS)
"""Names by number; 0 is no corruption."""


@dataclass(frozen=True)
class Comparisons:
    """N captions with K images each. The judge compares images of the same caption.

    Attributes:
        captions, scenes: N captions and the scenes they describe.
        pictures: the N K pictures before corruption.
        left: (N,K), the share of each picture that is left, as in `rules.utility`.
        images: (N,K,3,32,32) in [0,1], after corruption.
        utilities: (N,K) for each rule, by name.
        damages: (N,K), from 0 to 1.
    """

    captions: list[str]
    scenes: list[Scene]
    pictures: Pictures
    left: Tensor
    images: Tensor
    utilities: Mapping[str, Tensor]
    damages: Tensor

    def __len__(self) -> int:
        return len(self.captions)


def draw_comparisons(
    rng: np.random.Generator, vae: AutoencoderKL, captions: int, images: int, held_out: bool
) -> Comparisons:
    """Draw random captions, held out or not as given, with `images` images each."""
    size = CHUNK // images
    parts = [_chunk(rng, vae, min(size, captions - start), images, held_out) for start in range(0, captions, size)]
    return Comparisons(
        [caption for part in parts for caption in part.captions],
        [scene for part in parts for scene in part.scenes],
        concatenate([part.pictures for part in parts]),
        torch.cat([part.left for part in parts]),
        torch.cat([part.images for part in parts]),
        {name: torch.cat([part.utilities[name] for part in parts]) for name in RULES},
        torch.cat([part.damages for part in parts]),
    )


def judge(left: Tensor, right: Tensor, temperature: float, rng: np.random.Generator) -> Tensor:
    """Whether a Bradley-Terry judge prefers the left image of each pair, given utilities of the same shape."""
    chance = torch.from_numpy(rng.random(tuple(left.shape)).astype(np.float32))
    return chance < probability(left, right, temperature)


def corrupt(
    pictures: Pictures, scenes: Tensor, safe: Tensor, rng: np.random.Generator, vae: AutoencoderKL
) -> tuple[Tensor, Tensor]:
    """Paint `pictures` and corrupt some of them.

    Of the pictures that are not safe, a tenth is replaced by a plain color, which is damage 1. A third is not
    corrupted. The others get one corruption each: half at a severity of up to 0.1, which is no damage, and half from
    0.4 to 1. Corrupted latents, and 60% of the other scenes, pass through the autoencoder.

    Args:
        pictures: B pictures.
        scenes: (B,), which pictures are scenes of the world; only these can have corrupted latents.
        safe: (B,), which pictures to leave undamaged.

    Returns:
        Images (B,3,32,32) and their damage (B,) in [0,1].
    """
    count = len(pictures)
    empty, coded = bernoulli(rng, EMPTY, count) & ~safe, bernoulli(rng, THROUGH_AUTOENCODER, count) & scenes
    images = random_colors(count, rng).view(-1, 3, 1, 1).where(empty.view(-1, 1, 1, 1), paint(pictures))
    kinds = _draw_kinds(scenes, safe, empty, rng)
    severity = _draw_severities(count, rng) * (kinds > 0)
    images = _apply(images, PIXEL_CORRUPTIONS, kinds, severity, rng).clamp(0, 1)
    coded |= kinds > len(PIXEL_CORRUPTIONS)
    latents = _apply(encode(vae, images[coded]), LATENT_CORRUPTIONS, kinds[coded], severity[coded], rng)
    images[coded] = decode(vae, latents)
    return images, damage(severity).masked_fill(empty, 1)


def _draw_kinds(scenes: Tensor, safe: Tensor, empty: Tensor, rng: np.random.Generator) -> Tensor:
    """(B,), indices into CORRUPTIONS."""
    kinds = torch.from_numpy(rng.integers(1, len(CORRUPTIONS), size=len(safe)))
    kinds[bernoulli(rng, UNCHANGED, len(safe)) | safe] = 0
    kinds[(kinds > len(PIXEL_CORRUPTIONS)) & ~scenes] = 0
    kinds[empty & torch.isin(kinds, torch.tensor([CORRUPTIONS.index(name) for name in MIXES_PICTURES]))] = 0
    return kinds


def _draw_severities(count: int, rng: np.random.Generator) -> Tensor:
    severity = torch.from_numpy(rng.random(count, dtype=np.float32))
    return torch.where(bernoulli(rng, 0.5, count), INVISIBLE * severity, 0.4 + 0.6 * severity)


def _apply(
    values: Tensor, corruptions: Mapping[str, Corruption], kinds: Tensor, severity: Tensor, rng: np.random.Generator
) -> Tensor:
    """`values` (B,...) after the corruption of each row's kind, if it is one of `corruptions`."""
    values = values.clone()
    for name, corruption in corruptions.items():
        rows = kinds == CORRUPTIONS.index(name)
        values[rows] = corruption(values[rows], severity[rows].view(-1, 1, 1, 1), rng)
    return values


def _chunk(rng: np.random.Generator, vae: AutoencoderKL, count: int, images: int, held_out: bool) -> Comparisons:
    captions: list[str] = []
    scenes: list[Scene] = []
    while len(captions) < count:
        scene = sample_scene(rng)
        caption = sample_caption(scene, rng, held_out)
        if caption is not None:
            captions.append(caption)
            scenes.append(scene)
    pictures, of_the_world = draw_pictures([scene for scene in scenes for _ in range(images)], rng)
    safe = bernoulli(rng, SAFE, count).repeat_interleave(images)
    corrupted, damages = corrupt(pictures, of_the_world, safe, rng, vae)
    left = (1 - damages) * visibility(pictures)
    repeated = [caption for caption in captions for _ in range(images)]
    return Comparisons(
        captions,
        scenes,
        pictures,
        left.view(count, images),
        corrupted.view(count, images, *corrupted.shape[1:]),
        {name: utility(rule(pictures, repeated), left).view(count, images) for name, rule in RULES.items()},
        damages.view(count, images),
    )
