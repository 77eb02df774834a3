"""The training behind the preference rewards: a scorer learns from a noisy judge's choices between two images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from stepcredit.embedded import loop
from stepcredit.embedded.damage import decode, encode
from stepcredit.embedded.loop import Progress
from stepcredit.embedded.preference_pairs import Comparisons, judge
from stepcredit.embedded.render import render
from stepcredit.embedded.scorers import READING, Scorer
from stepcredit.embedded.world import caption
from stepcredit.maths import preference

MIRRORED = frozenset({"harmony", "balance", "legibility"})
"""Rules that a mirrored or transposed image does not change."""
RECOLOURED = frozenset({"harmony", "balance"})
"""Rules that an image with its colour channels exchanged or inverted does not change."""


@dataclass(frozen=True)
class PreferenceRecipe:
    captions: int = 4000
    images: int = 8
    steps: int = 4000
    batch: int = 16
    learning_rate: float = 4e-3
    temperature: float = 0.05


def train_scorer(name: str, recipe: PreferenceRecipe, seed: int, data: Comparisons, progress: Progress) -> Scorer:
    """-log P(the judge's choice) over all pairs of images of each caption, every pair judged once, beforehand.

    Images are mirrored and recoloured at random where the rule does not mind.
    """
    rng, scorer = loop.seeded(seed, lambda: Scorer(reads=name in READING))
    left, right = torch.triu_indices(data.images.shape[1], data.images.shape[1], 1)
    utilities = data.utilities[name]
    choices = judge(utilities[:, left], utilities[:, right], recipe.temperature, rng)
    optimiser, schedule = loop.optimiser(scorer.parameters(), recipe.learning_rate, recipe.steps)
    for _ in progress(range(recipe.steps), name):
        rows = torch.from_numpy(rng.integers(len(data), size=recipe.batch))
        images = varied(name, data.images[rows].flatten(0, 1), rng)
        scores = scorer(images, _repeated(data, rows.tolist())).view(len(rows), -1) / recipe.temperature
        loss = preference.negative_log_likelihood(scores[:, left], scores[:, right], choices[rows])
        loop.descend(loss, scorer, optimiser, schedule)
    return scorer.eval().requires_grad_(False)


def varied(name: str, images: Tensor, rng: np.random.Generator) -> Tensor:
    """`images` (B,3,H,W), all changed alike in a random way that leaves the rule's values as they are."""
    if name in MIRRORED:
        images = images.flip([axis for axis in (2, 3) if rng.random() < 0.5])
        images = images.transpose(2, 3) if rng.random() < 0.5 else images
    if name in RECOLOURED:
        images = images[:, torch.from_numpy(rng.permutation(3))]
        images = 1 - images if rng.random() < 0.5 else images
    return images


@torch.no_grad()
def score_comparisons(scorer: Scorer, data: Comparisons, batch: int = 64) -> Tensor:
    """Scores (N,K)."""
    rows = range(0, len(data), batch)
    parts = [
        scorer(
            data.images[start : start + batch].flatten(0, 1),
            _repeated(data, list(range(start, min(start + batch, len(data))))),
        )
        for start in rows
    ]
    return torch.cat(parts).view(data.damages.shape)


def usual_images(vae: AutoencoderKL, rng: np.random.Generator, count: int = 1024) -> tuple[Tensor, list[str]]:
    """`count` decoded renders of random scenes, each second one under the caption of the scene before it."""
    scenes = loop.draw_scenes(rng, count)
    captions = [caption(scenes[row if row % 2 == 0 else row - 1]) for row in range(count)]
    return torch.cat([decode(vae, encode(vae, part)) for part in render(scenes, rng).split(128)]), captions


@torch.no_grad()
def standardise(scorer: Scorer, images: Tensor, captions: list[str]) -> None:
    """Set the scorer's scale and shift so that scores of `images` have mean 0 and standard deviation 1."""
    scores = scorer(images, captions)
    scorer.scale /= scores.std()
    scorer.shift -= scores.mean() / scores.std()


def _repeated(data: Comparisons, rows: list[int]) -> list[str]:
    return [data.captions[row] for row in rows for _ in range(data.images.shape[1])]
