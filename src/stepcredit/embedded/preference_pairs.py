"""Pairs of images of one caption, what the hidden rules think of each, and what a noisy judge says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from stepcredit.embedded.damage import FROM_ELSEWHERE, ON_LATENTS, ON_PIXELS, damage, decode, encode
from stepcredit.embedded.pictures import any_colour, draw_pictures
from stepcredit.embedded.render import Pictures, paint
from stepcredit.embedded.rules import RULES, utility
from stepcredit.embedded.world import sample_caption, sample_scene
from stepcredit.maths.preference import probability

CHUNK = 128
EMPTY, UNCHANGED, THROUGH_AUTOENCODER = 0.1, 0.35, 0.6


@dataclass(frozen=True)
class Pairs:
    """N pairs of images.

    Attributes:
        captions: N, of both images of a pair.
        images: (N,2,3,32,32) in [0,1].
        utilities: (N,2) of each rule, by name.
    """

    captions: list[str]
    images: Tensor
    utilities: Mapping[str, Tensor]

    def __len__(self) -> int:
        return len(self.captions)


def draw_pairs(rng: np.random.Generator, vae: AutoencoderKL, count: int, held_out: bool) -> Pairs:
    """`count` pairs under captions that are held out, or that are not."""
    parts = [_chunk(rng, vae, min(CHUNK, count - start), held_out) for start in range(0, count, CHUNK)]
    return Pairs(
        [caption for part in parts for caption in part.captions],
        torch.cat([part.images for part in parts]),
        {name: torch.cat([part.utilities[name] for part in parts]) for name in RULES},
    )


def judge(utilities: Tensor, temperature: float, rng: np.random.Generator) -> Tensor:
    """Which first images (N,) of pairs with `utilities` (N,2) a Bradley-Terry judge prefers."""
    chance = torch.from_numpy(rng.random(len(utilities)).astype(np.float32))
    return chance < probability(utilities[:, 0], utilities[:, 1], temperature)


def spoil(pictures: Pictures, rng: np.random.Generator, vae: AutoencoderKL) -> tuple[Tensor, Tensor]:
    """Images (B,3,32,32) of `pictures` after what may happen to them, and their damage (B,).

    One in ten is a plain colour without a shape, of damage 1 whatever follows. Then about a third stays as it is and
    each change of `damage` befalls an equal share of the others, at a severity from 0 to 1. Six in ten, and all whose
    latents changed, went through the autoencoder.
    """
    count, clean = len(pictures), paint(pictures)
    empty = torch.from_numpy(rng.random(count) < EMPTY)
    images = any_colour(count, rng).view(-1, 3, 1, 1).where(empty.view(-1, 1, 1, 1), clean)
    names = ["", *ON_PIXELS, *ON_LATENTS]
    chances = [UNCHANGED] + [(1 - UNCHANGED) / (len(names) - 1)] * (len(names) - 1)
    kinds = rng.choice(len(names), size=count, p=chances)
    severity = torch.from_numpy(rng.random((count, 1, 1, 1), dtype=np.float32))
    for name, change in ON_PIXELS.items():
        befallen = torch.from_numpy(kinds == names.index(name)) & ~(empty & (name in FROM_ELSEWHERE))
        images[befallen] = change(images[befallen], severity[befallen], rng).clamp(0, 1)
    coded = torch.from_numpy((rng.random(count) < THROUGH_AUTOENCODER) | (kinds > len(ON_PIXELS)))
    latents = encode(vae, images)
    for name, change in ON_LATENTS.items():
        befallen = torch.from_numpy(kinds == names.index(name))
        latents[befallen] = change(latents[befallen], severity[befallen], rng)
    images[coded] = decode(vae, latents[coded])
    return images, damage(images, clean).masked_fill(empty, 1)


def _chunk(rng: np.random.Generator, vae: AutoencoderKL, count: int, held_out: bool) -> Pairs:
    scenes, captions = [], []
    while len(scenes) < count:
        scene = sample_scene(rng)
        caption = sample_caption(scene, rng, held_out)
        if caption is not None:
            scenes += [scene]
            captions += [caption]
    pictures = draw_pictures([scene for scene in scenes for _ in range(2)], rng)
    images, damages = spoil(pictures, rng, vae)
    doubled = [caption for caption in captions for _ in range(2)]
    utilities = {name: utility(rule(pictures, doubled), damages).view(-1, 2) for name, rule in RULES.items()}
    return Pairs(captions, images.view(-1, 2, *images.shape[1:]), utilities)
