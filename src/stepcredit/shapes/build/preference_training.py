"""Train the preference scorers on a noisy judge's choices between two images."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from stepcredit.maths import preference
from stepcredit.shapes.augmentations import Augmentation
from stepcredit.shapes.build import loop
from stepcredit.shapes.build.autoencoder import decode, encode
from stepcredit.shapes.build.loop import Progress
from stepcredit.shapes.build.preference_pairs import Comparisons, judge
from stepcredit.shapes.build.random_pictures import perturbed_scene, select_rows
from stepcredit.shapes.render import render
from stepcredit.shapes.rules import RULES, utility
from stepcredit.shapes.scorers import COMPARES_HUES, READS_CAPTION, Scorer
from stepcredit.shapes.world import caption, sample_caption

FLIP_INVARIANT = frozenset({"harmony", "balance", "legibility"})
"""Rules whose value does not change when the image is flipped or transposed."""
RECOLOR_INVARIANT = frozenset({"harmony", "balance"})
"""Rules whose value does not change when color channels are exchanged or colors inverted."""
STEP_FACTOR = {"harmony": 4, "faithfulness": 2}
"""Factor on the number of steps for rules that are harder to learn."""


@dataclass(frozen=True)
class PreferenceRecipe:
    """Hyperparameters of the scorers' training.

    Attributes:
        captions: number of training captions.
        images: images per caption.
        steps: optimizer steps, to be multiplied by the rule's STEP_FACTOR.
        batch: captions per step.
        learning_rate: peak learning rate of AdamW.
        temperature: temperature of the Bradley-Terry judge, in units of utility.
        ema: decay of the moving average of the weights, which is the trained scorer.
    """

    captions: int = 4000
    images: int = 8
    steps: int = 3500
    batch: int = 12
    learning_rate: float = 3e-3
    temperature: float = 0.05
    ema: float = 0.998


def train_scorer(name: str, recipe: PreferenceRecipe, seed: int, data: Comparisons, progress: Progress) -> Scorer:
    """Minimize the negative log-likelihood of the judge's choices, and return the moving average of the weights.

    A batch holds all images of `recipe.batch` captions. The judge compares every two of them, with new noise in each
    step. For a rule that reads the caption, it also compares every two captions of each image. Images are augmented at
    random by what does not change the rule's value.
    """
    rng, scorer = loop.seed_and_build(seed, lambda: Scorer(name))
    averaged = copy.deepcopy(scorer).requires_grad_(False)
    steps = recipe.steps * STEP_FACTOR.get(name, 1)
    optimizer, schedule = loop.build_optimizer(scorer.parameters(), recipe.learning_rate, steps)
    for step in progress(range(steps), name):
        rows = torch.from_numpy(rng.integers(len(data), size=recipe.batch))
        captions, utilities = captions_and_utilities(name, data, rows, rng)
        scores = scorer.table(augmented(name, data.images[rows], rng), captions)
        loss = judge_loss(scores, utilities, recipe.temperature, rng)
        if len(captions) > 1:
            loss = loss + judge_loss(scores.T, utilities.T, recipe.temperature, rng)
        loop.optimizer_step(loss, scorer, optimizer, schedule)
        loop.update_average(averaged, scorer, recipe.ema, step)
    return averaged.eval()


def judge_loss(scores: Tensor, utilities: Tensor, temperature: float, rng: np.random.Generator) -> Tensor:
    """Mean negative log-likelihood of the judge's choices between every two rows, in each column of scores (N,C)."""
    left, right = torch.triu_indices(len(scores), len(scores), 1)
    choices = judge(utilities[left], utilities[right], temperature, rng)
    return preference.negative_log_likelihood(scores[left] / temperature, scores[right] / temperature, choices)


def captions_and_utilities(
    name: str, data: Comparisons, rows: Tensor, rng: np.random.Generator
) -> tuple[list[str], Tensor]:
    """C captions, and the utilities (N K,C) of all images of `rows` (N,) under each of them.

    For a rule that reads the caption, there is one caption for each row: in half of the rows of the row's scene, else
    of a perturbed scene. For the other rules there is one empty caption.
    """
    if name not in READS_CAPTION:
        return [""], data.utilities[name][rows].view(-1, 1)
    captions = []
    for row in rows.tolist():
        scene = data.scenes[row]
        text = sample_caption(perturbed_scene(scene, rng) if rng.random() < 0.5 else scene, rng, held_out=False)
        captions.append(text or data.captions[row])
    count = data.images.shape[1]
    pictures = select_rows(data.pictures, (rows.unsqueeze(1) * count + torch.arange(count)).flatten())
    values = torch.stack([RULES[name](pictures, [text] * len(pictures)) for text in captions], 1)
    return captions, utility(values, data.left[rows].view(-1, 1))


def augmented(name: str, images: Tensor, rng: np.random.Generator) -> Tensor:
    """`images` (N,K,3,H,W) after a random augmentation that does not change the rule's value, as (N K,3,H,W).

    All images get the same augmentation. For a scorer that compares hues, each of the N captions gets its own.
    """
    if name in COMPARES_HUES:
        return torch.cat([_augmentation(name, rng)(each) for each in images])
    return _augmentation(name, rng)(images.flatten(0, 1))


def _augmentation(name: str, rng: np.random.Generator) -> Augmentation:
    flip = _flip(rng) if name in FLIP_INVARIANT else ((), False)
    return Augmentation(*flip, *(_recoloring(rng) if name in RECOLOR_INVARIANT else ()))


def _flip(rng: np.random.Generator) -> tuple[tuple[int, ...], bool]:
    return tuple(axis for axis in (2, 3) if rng.random() < 0.5), rng.random() < 0.5


def _recoloring(rng: np.random.Generator) -> tuple[tuple[int, ...], bool]:
    return tuple(rng.permutation(3).tolist()), rng.random() < 0.5


@torch.no_grad()
def score_comparisons(scorer: Scorer, data: Comparisons, batch: int = 64) -> Tensor:
    """The scores (N,K) of all images under their captions."""
    count = data.images.shape[1]
    parts = [
        scorer(data.images[start : start + batch].flatten(0, 1), _repeated(data.captions[start : start + batch], count))
        for start in range(0, len(data), batch)
    ]
    return torch.cat(parts).view(-1, count)


def calibration_images(vae: AutoencoderKL, rng: np.random.Generator, count: int = 1024) -> tuple[Tensor, list[str]]:
    """`count` decoded renders of random scenes. Every second one gets the caption of the scene before it."""
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
