"""Distill the flow pipeline of the composition world to few steps."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from diffusers import SD3Transformer2DModel, StableDiffusion3Pipeline
from torch import Tensor

from stepcredit.shapes.build import loop
from stepcredit.shapes.build.loop import Progress
from stepcredit.shapes.composition.captions import sample_caption
from stepcredit.shapes.composition.claims import TASKS
from stepcredit.shapes.pipeline import TEXT_PADDING


@dataclass(frozen=True)
class DistillationRecipe:
    student_steps: int = 4
    teacher_steps: int = 8
    trajectories: int = 12_288
    steps: int = 2500
    batch: int = 64
    learning_rate: float = 1e-3
    ema: float = 0.998


@dataclass(frozen=True)
class Trajectories:
    """Solutions of the teacher's ODE.

    Attributes:
        levels: (S+1,), the noise levels of the student's steps, from 1 to 0.
        latents: (S+1,N,4,8,8), the teacher's latents at these levels.
        embeds, pooled: (N,L,C) and (N,C), the encoded captions.
    """

    levels: Tensor
    latents: Tensor
    embeds: Tensor
    pooled: Tensor


def distill(
    recipe: DistillationRecipe, seed: int, teacher: StableDiffusion3Pipeline, progress: Progress
) -> SD3Transformer2DModel:
    """A transformer whose Euler steps follow the teacher's ODE over the levels of `student_steps` steps.

    At level s_i of a trajectory, it learns the mean velocity to the next level:
    |v(x_i, s_i) - (x_{i+1} - x_i) / (s_{i+1} - s_i)|^2. It starts from the teacher's weights, and the EMA of its
    weights is returned. The text encoders are the teacher's.
    """
    rng, student = loop.seed_and_build(seed, lambda: copy.deepcopy(teacher.transformer).train().requires_grad_(True))
    averaged = copy.deepcopy(student).requires_grad_(False)
    data = solve(recipe, teacher, rng, progress)
    optimizer, schedule = loop.build_optimizer(
        student.parameters(), recipe.learning_rate, recipe.steps, 0.0, betas=(0.9, 0.99), hold=0.3, fused=True
    )
    lengths = data.levels.diff()
    for step in progress(range(recipe.steps), "distillation"):
        rows = torch.from_numpy(rng.integers(recipe.trajectories, size=recipe.batch))
        index = torch.from_numpy(rng.integers(recipe.student_steps, size=recipe.batch))
        before, after = data.latents[index, rows], data.latents[index + 1, rows]
        target = (after - before) / lengths[index].view(-1, 1, 1, 1)
        velocity = _velocity(student, before, data.levels[index], data.embeds[rows], data.pooled[rows])
        loop.optimizer_step((velocity - target).square().mean(), student, optimizer, schedule)
        loop.update_average(averaged, student, recipe.ema, step)
    return averaged.eval()


@torch.no_grad()
def solve(
    recipe: DistillationRecipe,
    teacher: StableDiffusion3Pipeline,
    rng: np.random.Generator,
    progress: Progress,
    batch: int = 256,
) -> Trajectories:
    """The teacher's trajectories of random training captions: `teacher_steps` Euler steps between two levels."""
    teacher.scheduler.set_timesteps(recipe.student_steps)
    levels = teacher.scheduler.sigmas.clone()
    captions = [sample_caption(rng, "training", TASKS[row % len(TASKS)]) for row in range(recipe.trajectories)]
    parts = []
    for start in progress(range(0, recipe.trajectories, batch), "trajectories"):
        embeds, _, pooled, _ = teacher.encode_prompt(
            captions[start : start + batch],
            None,
            None,
            do_classifier_free_guidance=False,
            max_sequence_length=TEXT_PADDING,
        )
        latents = [torch.randn(len(embeds), 4, 8, 8)]
        for first, last in pairwise(levels):
            latents.append(
                _integrate(teacher.transformer, latents[-1], first, last, recipe.teacher_steps, embeds, pooled)
            )
        parts.append((torch.stack(latents), embeds, pooled))
    columns = tuple(zip(*parts, strict=True))
    return Trajectories(levels, torch.cat(columns[0], 1), torch.cat(columns[1]), torch.cat(columns[2]))


def _integrate(
    transformer: SD3Transformer2DModel,
    latents: Tensor,
    first: Tensor,
    last: Tensor,
    steps: int,
    embeds: Tensor,
    pooled: Tensor,
) -> Tensor:
    """Euler steps of equal length from the level `first` to `last`."""
    length = (last - first) / steps
    for step in range(steps):
        level = (first + step * length).expand(len(latents))
        latents = latents + length * _velocity(transformer, latents, level, embeds, pooled)
    return latents


def _velocity(
    transformer: SD3Transformer2DModel, latents: Tensor, levels: Tensor, embeds: Tensor, pooled: Tensor
) -> Tensor:
    velocity: Tensor = transformer(
        hidden_states=latents, timestep=1000 * levels, encoder_hidden_states=embeds, pooled_projections=pooled
    ).sample
    return velocity
