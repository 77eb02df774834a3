"""The training behind the preference rewards: a scorer learns from a noisy judge's choices between two images."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from stepcredit.maths import preference
from stepcredit.shapes.build import loop
from stepcredit.shapes.build.latents import decode, encode
from stepcredit.shapes.build.loop import Progress
from stepcredit.shapes.build.pictures import altered, take
from stepcredit.shapes.build.preference_pairs import Comparisons, judge
from stepcredit.shapes.render import render
from stepcredit.shapes.rules import RULES, utility
from stepcredit.shapes.scorers import HUED, READING, Scorer
from stepcredit.shapes.variations import Variation
from stepcredit.shapes.world import caption, sample_caption

MIRRORED = frozenset({"harmony", "balance", "legibility"})
"""Rules that a mirrored or transposed image does not change."""
RECOLORED = frozenset({"harmony", "balance"})
"""Rules that an image with its color channels exchanged or inverted does not change."""
LONGER = {"harmony": 4, "faithfulness": 2}
"""How many times the steps a rule takes that is harder to learn."""


@dataclass(frozen=True)
class PreferenceRecipe:
    """How scorers are trained.

    Attributes:
        captions: different ones, with `images` images each, that all steps draw from.
        steps: of the optimizer; more for rules that are LONGER to learn.
        batch: captions of a step.
        learning_rate: of AdamW at its highest.
        temperature: of the judge, in utilities.
        ema: decay of the average of the weights, which is what becomes of them.
    """

    captions: int = 4000
    images: int = 8
    steps: int = 3500
    batch: int = 12
    learning_rate: float = 3e-3
    temperature: float = 0.05
    ema: float = 0.998


def train_scorer(name: str, recipe: PreferenceRecipe, seed: int, data: Comparisons, progress: Progress) -> Scorer:
    """-log P(the judge's choice) between any two images of a batch, and for a rule that reads any two captions of one.

    A batch has all images of `recipe.batch` scenes. The judge is asked anew every time. Images are mirrored and
    recolored at random where the rule does not mind. Returns the moving average of the weights.
    """
    rng, scorer = loop.seeded(seed, lambda: Scorer(name))
    averaged = copy.deepcopy(scorer).requires_grad_(False)
    steps = recipe.steps * LONGER.get(name, 1)
    optimizer, schedule = loop.optimizer(scorer.parameters(), recipe.learning_rate, steps)
    for step in progress(range(steps), name):
        rows = torch.from_numpy(rng.integers(len(data), size=recipe.batch))
        captions, utilities = asked(name, data, rows, rng)
        scores = scorer.table(varied(name, data.images[rows], rng), captions)
        loss = surprise(scores, utilities, recipe.temperature, rng)
        if len(captions) > 1:
            loss = loss + surprise(scores.T, utilities.T, recipe.temperature, rng)
        loop.descend(loss, scorer, optimizer, schedule)
        loop.update_average(averaged, scorer, recipe.ema, step)
    return averaged.eval()


def surprise(scores: Tensor, utilities: Tensor, temperature: float, rng: np.random.Generator) -> Tensor:
    """Mean of -log P over the choices of a judge who compares any two rows in every column, of scores (N,C)."""
    left, right = torch.triu_indices(len(scores), len(scores), 1)
    choices = judge(utilities[left], utilities[right], temperature, rng)
    return preference.negative_log_likelihood(scores[left] / temperature, scores[right] / temperature, choices)


def asked(name: str, data: Comparisons, rows: Tensor, rng: np.random.Generator) -> tuple[list[str], Tensor]:
    """Captions, C, and the utilities (N K,C) under each of all images of `rows` (N,).

    For a rule that reads there is one of each row's scene, in half of the rows with a few words changed. For the others
    the caption does not matter, and there is an empty one.
    """
    if name not in READING:
        return [""], data.utilities[name][rows].view(-1, 1)
    captions = []
    for row in rows.tolist():
        scene = data.scenes[row]
        drawn = sample_caption(altered(scene, rng) if rng.random() < 0.5 else scene, rng, held_out=False)
        captions.append(drawn or data.captions[row])
    count = data.images.shape[1]
    pictures = take(data.pictures, (rows.unsqueeze(1) * count + torch.arange(count)).flatten())
    values = torch.stack([RULES[name](pictures, [text] * len(pictures)) for text in captions], 1)
    return captions, utility(values, data.left[rows].view(-1, 1))


def varied(name: str, images: Tensor, rng: np.random.Generator) -> Tensor:
    """`images` (N,K,3,H,W), changed in a random way that leaves the rule's values as they are, as (N K,3,H,W).

    All are changed alike, or, for a scorer of hues, those of each of the N alike.
    """
    if name in HUED:
        return torch.cat([_variation(name, rng)(each) for each in images])
    return _variation(name, rng)(images.flatten(0, 1))


def _variation(name: str, rng: np.random.Generator) -> Variation:
    mirroring = _mirroring(rng) if name in MIRRORED else ((), False)
    return Variation(*mirroring, *(_recoloring(rng) if name in RECOLORED else ()))


def _mirroring(rng: np.random.Generator) -> tuple[tuple[int, ...], bool]:
    return tuple(axis for axis in (2, 3) if rng.random() < 0.5), rng.random() < 0.5


def _recoloring(rng: np.random.Generator) -> tuple[tuple[int, ...], bool]:
    return tuple(rng.permutation(3).tolist()), rng.random() < 0.5


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
def standardize(scorer: Scorer, images: Tensor, captions: list[str]) -> None:
    """Set the scorer's scale and shift so that scores of `images` have mean 0 and standard deviation 1."""
    scores = scorer(images, captions)
    scorer.scale /= scores.std()
    scorer.shift -= scores.mean() / scores.std()


def _repeated(captions: list[str], count: int) -> list[str]:
    return [text for text in captions for _ in range(count)]
