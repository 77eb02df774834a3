"""Pairs of images of one caption, what the hidden rules think of each, and what a noisy judge says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from stepcredit.maths.preference import probability
from stepcredit.shapes.build.damage import ELSEWHERE, ON_LATENTS, ON_PIXELS, UNSEEN, Change, damage
from stepcredit.shapes.build.latents import decode, encode
from stepcredit.shapes.build.pictures import any_color, draw_pictures, join
from stepcredit.shapes.draws import chosen
from stepcredit.shapes.render import Pictures, paint
from stepcredit.shapes.rules import RULES, utility, visibility
from stepcredit.shapes.world import Scene, sample_caption, sample_scene

CHUNK = 256
SAFE, EMPTY, UNCHANGED, THROUGH_AUTOENCODER = 0.5, 0.1, 1 / 3, 0.6
CHANGES = ("", *ON_PIXELS, *ON_LATENTS)
"""What befalls an image, by number: nothing is 0."""


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

    But for the `safe` (B,), one in ten is a plain color without a shape: damage 1 whatever follows. A third stays as
    it is, and the changes of `damage` befall the others alike: half of them at a severity up to 0.1, which is no
    damage, half from 0.4 to 1. Those in latents need one of the `scenes` (B,). All of these and six in ten other
    scenes go through the autoencoder.
    """
    count = len(pictures)
    empty, coded = chosen(rng, EMPTY, count) & ~safe, chosen(rng, THROUGH_AUTOENCODER, count) & scenes
    images = any_color(count, rng).view(-1, 3, 1, 1).where(empty.view(-1, 1, 1, 1), paint(pictures))
    kinds = _draw_changes(scenes, safe, empty, rng)
    severity = _draw_severities(count, rng) * (kinds > 0)
    images = _changed(images, ON_PIXELS, kinds, severity, rng).clamp(0, 1)
    coded |= kinds > len(ON_PIXELS)
    latents = _changed(encode(vae, images[coded]), ON_LATENTS, kinds[coded], severity[coded], rng)
    images[coded] = decode(vae, latents)
    return images, damage(severity).masked_fill(empty, 1)


def _draw_changes(scenes: Tensor, safe: Tensor, empty: Tensor, rng: np.random.Generator) -> Tensor:
    """(B,), places in CHANGES, 0 for none."""
    kinds = torch.from_numpy(rng.integers(1, len(CHANGES), size=len(safe)))
    kinds[chosen(rng, UNCHANGED, len(safe)) | safe] = 0
    kinds[(kinds > len(ON_PIXELS)) & ~scenes] = 0
    kinds[empty & torch.isin(kinds, torch.tensor([CHANGES.index(name) for name in ELSEWHERE]))] = 0
    return kinds


def _draw_severities(count: int, rng: np.random.Generator) -> Tensor:
    severity = torch.from_numpy(rng.random(count, dtype=np.float32))
    return torch.where(chosen(rng, 0.5, count), UNSEEN * severity, 0.4 + 0.6 * severity)


def _changed(
    values: Tensor, changes: Mapping[str, Change], kinds: Tensor, severity: Tensor, rng: np.random.Generator
) -> Tensor:
    """`values` (B,...) after those of `changes` that are their kind."""
    values = values.clone()
    for name, change in changes.items():
        hit = kinds == CHANGES.index(name)
        values[hit] = change(values[hit], severity[hit].view(-1, 1, 1, 1), rng)
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
    safe = chosen(rng, SAFE, count).repeat_interleave(images)
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
