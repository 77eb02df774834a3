"""What all trainings share: seeding, data from the renderer, the optimizer, and the average of the weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from stepcredit.shapes.build.autoencoder import encode
from stepcredit.shapes.render import render
from stepcredit.shapes.world import Scene, sample_caption, sample_scene

Progress = Callable[[Sequence[int], str], Iterator[int]]

Draw = Callable[[int], tuple[Tensor, list[str]]]
"""Draws a batch: scaled latents (B,4,8,8) and a caption for each."""

Module = TypeVar("Module", bound=nn.Module)


def seed_and_build(seed: int, build: Callable[[], Module]) -> tuple[np.random.Generator, Module]:
    """Seed torch, then build the network. Also returns a generator for the data."""
    torch.manual_seed(seed)
    return np.random.default_rng(seed), build()


def draw_scenes(rng: np.random.Generator, count: int) -> list[Scene]:
    """`count` random scenes."""
    return [sample_scene(rng) for _ in range(count)]


def draw_images(rng: np.random.Generator, count: int) -> Tensor:
    """Renders (count,3,32,32) in [0,1] of random scenes."""
    return render(draw_scenes(rng, count), rng)


def shapes_data(vae: AutoencoderKL, rng: np.random.Generator, count: int, dropout: float) -> Draw:
    """Draws from `count` random scenes. Captions are not held out, and empty with probability `dropout`."""
    scenes = draw_scenes(rng, count)
    latents = encode_all(vae, lambda rows: render(scenes[rows], rng), count)

    def draw(batch: int) -> tuple[Tensor, list[str]]:
        rows = rng.integers(count, size=batch)
        return latents[torch.from_numpy(rows)], [_training_caption(scenes[row], rng, dropout) for row in rows]

    return draw


def encode_all(vae: AutoencoderKL, images: Callable[[slice], Tensor], count: int, chunk: int = 256) -> Tensor:
    """The scaled latents (count,4,8,8) of `count` images, which `images` renders chunk by chunk."""
    return torch.cat([encode(vae, images(slice(start, start + chunk))) for start in range(0, count, chunk)])


def _training_caption(scene: Scene, rng: np.random.Generator, dropout: float) -> str:
    """A caption of `scene` that is not held out. Empty with probability `dropout`, and if none is found."""
    if rng.random() < dropout:
        return ""
    return sample_caption(scene, rng, held_out=False) or ""


def build_optimizer(
    parameters: Iterator[nn.Parameter],
    learning_rate: float,
    steps: int,
    weight_decay: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    warmup: int = 100,
    hold: float = 0.0,
    fused: bool = False,
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """AdamW with a linear warm-up of `warmup` steps and a cosine decay to zero at `steps`.

    The decay starts after the fraction `hold` of all steps.
    """
    adam = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=weight_decay, betas=betas, fused=fused)
    decay_start = round(hold * steps)

    def scale(step: int) -> float:
        decay = 0.5 * (1 + math.cos(math.pi * max(step - decay_start, 0) / (steps - decay_start)))
        return min(1.0, (step + 1) / warmup) * decay

    return adam, torch.optim.lr_scheduler.LambdaLR(adam, scale)


def optimizer_step(
    loss: Tensor,
    model: nn.Module,
    adam: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
) -> None:
    """One optimizer step on `loss`, with the gradient clipped to norm 1."""
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    adam.step()
    adam.zero_grad(set_to_none=True)
    schedule.step()


@torch.no_grad()
def update_average(averaged: nn.Module, model: nn.Module, decay: float, step: int) -> None:
    """Update the moving average of the weights; its decay is min(`decay`, (1 + step) / (10 + step)), step from 0."""
    decay = min(decay, (1 + step) / (10 + step))
    torch._foreach_lerp_(list(averaged.parameters()), list(model.parameters()), 1 - decay)
