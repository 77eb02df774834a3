"""The training behind the preference rewards: a scorer learns from a noisy judge's choices between two images."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from stepcredit.embedded import loop
from stepcredit.embedded.damage import decode, encode
from stepcredit.embedded.loop import Progress
from stepcredit.embedded.pictures import altered, take
from stepcredit.embedded.preference_pairs import Comparisons, judge
from stepcredit.embedded.render import render
from stepcredit.embedded.rules import RULES, utility
from stepcredit.embedded.scorers import READING, Scorer
from stepcredit.embedded.world import caption, sample_caption
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
    ema: float = 0.998


def train_scorer(name: str, recipe: PreferenceRecipe, seed: int, data: Comparisons, progress: Progress) -> Scorer:
    """-log P(the judge's choice) over all pairs of images of each caption; the judge is asked anew every time.

    Images are mirrored and recoloured at random where the rule does not mind, and captions drawn anew where it reads
    them. Returns the moving average of the weights.
    """
    rng, scorer = loop.seeded(seed, lambda: Scorer(reads=name in READING))
    averaged = copy.deepcopy(scorer).requires_grad_(False)
    left, right = torch.triu_indices(data.images.shape[1], data.images.shape[1], 1)
    optimiser, schedule = loop.optimiser(scorer.parameters(), recipe.learning_rate, recipe.steps)
    for step in progress(range(recipe.steps), name):
        rows = torch.from_numpy(rng.integers(len(data), size=recipe.batch))
        captions, utilities = asked(name, data, rows, rng)
        choices = judge(utilities[:, left], utilities[:, right], recipe.temperature, rng)
        images = varied(name, data.images[rows].flatten(0, 1), rng)
        scores = scorer(images, captions).view(len(rows), -1) / recipe.temperature
        loss = preference.negative_log_likelihood(scores[:, left], scores[:, right], choices)
        loop.descend(loss, scorer, optimiser, schedule)
        loop.update_average(averaged, scorer, recipe.ema, step)
    return averaged.eval()


def asked(name: str, data: Comparisons, rows: Tensor, rng: np.random.Generator) -> tuple[list[str], Tensor]:
    """A caption for each image of `rows`, N K in all, and the images' utilities (N,K) under them.

    For a rule that reads, half of the captions are of the scene of that row, half of one with a few words changed.
    """
    count = data.images.shape[1]
    if name not in READING:
        return _repeated([data.captions[row] for row in rows], count), data.utilities[name][rows]
    captions = []
    for row in rows.tolist():
        scene = data.scenes[row]
        drawn = sample_caption(altered(scene, rng) if rng.random() < 0.5 else scene, rng, held_out=False)
        captions.append(drawn or data.captions[row])
    captions = _repeated(captions, count)
    pictures = take(data.pictures, (rows.unsqueeze(1) * count + torch.arange(count)).flatten())
    return captions, utility(RULES[name](pictures, captions), data.left[rows].flatten()).view(-1, count)


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
    count = data.images.shape[1]
    parts = [
        scorer(data.images[start : start + batch].flatten(0, 1), _repeated(data.captions[start : start + batch], count))
        for start in range(0, len(data), batch)
    ]
    return torch.cat(parts).view(-1, count)


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


def _repeated(captions: list[str], count: int) -> list[str]:
    return [text for text in captions for _ in range(count)]
