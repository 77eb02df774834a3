"""The training behind the preference rewards: a scorer learns from a noisy judge's choices between two images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from stepcredit.embedded import loop
from stepcredit.embedded.loop import Progress
from stepcredit.embedded.preference_pairs import Pairs, judge
from stepcredit.embedded.scorers import READING, Scorer
from stepcredit.maths import preference


@dataclass(frozen=True)
class PreferenceRecipe:
    pairs: int = 12_000
    steps: int = 2500
    batch: int = 64
    learning_rate: float = 3e-3
    temperature: float = 0.02


def train_scorer(name: str, recipe: PreferenceRecipe, seed: int, pairs: Pairs, progress: Progress) -> Scorer:
    """-log P(the judge's choice) on `pairs`, each judged once at the recipe's temperature."""
    rng, scorer = loop.seeded(seed, lambda: Scorer(reads=name in READING))
    choices = judge(pairs.utilities[name], recipe.temperature, rng)
    optimiser, schedule = loop.optimiser(scorer.parameters(), recipe.learning_rate, recipe.steps)
    for _ in progress(range(recipe.steps), name):
        rows = torch.from_numpy(rng.integers(len(pairs), size=recipe.batch))
        scores = score_pairs(scorer, pairs.images[rows], [pairs.captions[row] for row in rows])
        loss = preference.negative_log_likelihood(scores[:, 0], scores[:, 1], choices[rows])
        loop.descend(loss, scorer, optimiser, schedule)
    return scorer.eval().requires_grad_(False)


def score_pairs(scorer: Scorer, images: Tensor, captions: list[str]) -> Tensor:
    """Scores (N,2) of pairs of images (N,2,3,32,32)."""
    return scorer(images.flatten(0, 1), [caption for caption in captions for _ in range(2)]).view(-1, 2)
