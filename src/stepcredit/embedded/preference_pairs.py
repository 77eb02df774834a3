"""Pairs of images of one caption, what the hidden rules think of each, and what a noisy judge says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from stepcredit.embedded.damage import ELSEWHERE, ON_LATENTS, ON_PIXELS, damage, decode, encode
from stepcredit.embedded.pictures import any_colour, draw_pictures, join
from stepcredit.embedded.render import Pictures, paint
from stepcredit.embedded.rules import RULES, utility, visibility
from stepcredit.embedded.world import Scene, sample_caption, sample_scene
from stepcredit.maths.preference import probability

CHUNK = 256
SAFE, EMPTY, UNCHANGED, THROUGH_AUTOENCODER = 0.5, 0.1, 1 / 3, 0.6


@dataclass(frozen=True)
class Comparisons:
    """N captions with K images each, any two of which a judge may be asked to compare.

    Attributes:
        captions, scenes: N, what is asked for.
        pictures: N K, what was meant, and `left` (N,K), the share of it that can be seen.
        images: (N,K,3,32,32) in [0,1], what became of it.
        utilities: (N,K) of each rule, by name.
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
    """`captions` random ones, held out or not, with `images` each."""
    size = CHUNK // images
    parts = [_chunk(rng, vae, min(size, captions - start), images, held_out) for start in range(0, captions, size)]
    return Comparisons(
        [caption for part in parts for caption in part.captions],
        [scene for part in parts for scene in part.scenes],
        join([part.pictures for part in parts]),
        torch.cat([part.left for part in parts]),
        torch.cat([part.images for part in parts]),
        {name: torch.cat([part.utilities[name] for part in parts]) for name in RULES},
        torch.cat([part.damages for part in parts]),
    )


def judge(left: Tensor, right: Tensor, temperature: float, rng: np.random.Generator) -> Tensor:
    """Whether a Bradley-Terry judge prefers the left image of each pair, from their utilities, of one shape."""
    chance = torch.from_numpy(rng.random(tuple(left.shape)).astype(np.float32))
    return chance < probability(left, right, temperature)


def spoil(
    pictures: Pictures, scenes: Tensor, safe: Tensor, rng: np.random.Generator, vae: AutoencoderKL
) -> tuple[Tensor, Tensor]:
    """Images (B,3,32,32) of `pictures` after what may happen to them, and the damage (B,) in [0,1].

    One in ten is a plain colour without a shape: damage 1 whatever follows. A third stays as it is, and the changes of
    `damage` befall the others alike: half of them at a severity up to 0.1, which is no damage, half from 0.4 to 1.
    Those in latents need one of the `scenes` (B,), bool. All of these and six in ten other scenes go through the
    autoencoder.
    """
    count, names = len(pictures), ["", *ON_PIXELS, *ON_LATENTS]
    empty, coded = _mask(rng, count, EMPTY) & ~safe, _mask(rng, count, THROUGH_AUTOENCODER) & scenes
    images = any_colour(count, rng).view(-1, 3, 1, 1).where(empty.view(-1, 1, 1, 1), paint(pictures))
    kinds = torch.from_numpy(rng.integers(1, len(names), size=count)).masked_fill(
        _mask(rng, count, UNCHANGED) | safe, 0
    )
    kinds[(kinds > len(ON_PIXELS)) & ~scenes] = 0
    kinds[empty & torch.isin(kinds, torch.tensor([names.index(name) for name in ELSEWHERE]))] = 0
    severity = torch.from_numpy(rng.random(count, dtype=np.float32))
    severity = torch.where(_mask(rng, count, 0.5), 0.1 * severity, 0.4 + 0.6 * severity) * (kinds > 0)
    for name, change in ON_PIXELS.items():
        hit = kinds == names.index(name)
        images[hit] = change(images[hit], severity[hit].view(-1, 1, 1, 1), rng).clamp(0, 1)
    coded |= kinds > len(ON_PIXELS)
    latents = encode(vae, images[coded])
    for name, change in ON_LATENTS.items():
        hit = kinds[coded] == names.index(name)
        latents[hit] = change(latents[hit], severity[coded][hit].view(-1, 1, 1, 1), rng)
    images[coded] = decode(vae, latents)
    return images, damage(severity).masked_fill(empty, 1)


def _mask(rng: np.random.Generator, count: int, chance: float) -> Tensor:
    return torch.from_numpy(rng.random(count) < chance)


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
    safe = _mask(rng, count, SAFE).repeat_interleave(images)
    spoiled, damages = spoil(pictures, of_the_world, safe, rng, vae)
    left = (1 - damages) * visibility(pictures)
    each = [caption for caption in captions for _ in range(images)]
    return Comparisons(
        captions,
        scenes,
        pictures,
        left.view(count, images),
        spoiled.view(count, images, *spoiled.shape[1:]),
        {name: utility(rule(pictures, each), left).view(count, images) for name, rule in RULES.items()},
        damages.view(count, images),
    )
