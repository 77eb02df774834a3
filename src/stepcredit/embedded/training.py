"""The three trainings behind the embedded pipeline: autoencoder, checker, denoiser with its text encoder.

Each stage takes a frozen recipe and a seed, draws its data from the renderer and returns networks in eval mode.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from stepcredit.embedded import networks
from stepcredit.embedded.checker import Checker
from stepcredit.embedded.render import render
from stepcredit.embedded.world import ATTRIBUTES, Scene, sample_caption, sample_scene

Progress = Callable[[Sequence[int], str], Iterator[int]]
Module = TypeVar("Module", bound=nn.Module)


@dataclass(frozen=True)
class AutoencoderRecipe:
    steps: int = 3000
    batch: int = 32
    learning_rate: float = 1.6e-3
    latent_noise: float = 0.1
    latent_penalty: float = 3e-4


@dataclass(frozen=True)
class CheckerRecipe:
    steps: int = 700
    batch: int = 64
    learning_rate: float = 2e-3
    pixel_noise: float = 0.08


@dataclass(frozen=True)
class DenoiserRecipe:
    steps: int = 7000
    batch: int = 64
    learning_rate: float = 1.5e-3
    weight_decay: float = 1e-3
    scenes: int = 40_000
    caption_dropout: float = 0.1
    ema: float = 0.998


def train_autoencoder(recipe: AutoencoderRecipe, seed: int, progress: Progress) -> AutoencoderKL:
    """AutoencoderKL on fresh renders: L1 + squared error + latent_penalty * |z|^2, z = posterior mean + noise.

    A sampled posterior stalls on this data, so the encoder is trained as a noisy deterministic one; afterwards its
    log-variance head is set to that constant noise and `scaling_factor` to one over the latents' standard deviation.
    """
    rng, vae = _seeded(seed, networks.build_vae)
    optimiser, schedule = _optimiser(vae.parameters(), recipe.learning_rate, recipe.steps, weight_decay=0.0)
    for _ in progress(range(recipe.steps), "autoencoder"):
        images = _renders(rng, recipe.batch) * 2 - 1
        mean = vae.encode(images).latent_dist.mean
        decoded = vae.decode(mean + recipe.latent_noise * torch.randn_like(mean)).sample
        error = decoded - images
        loss = error.abs().mean() + error.square().mean() + recipe.latent_penalty * mean.square().mean()
        _step(loss, vae, optimiser, schedule)
    vae.eval().requires_grad_(False)
    _set_constant_posterior(vae, recipe.latent_noise)
    latents = vae.encode(_renders(rng, 512) * 2 - 1).latent_dist.mean
    vae.register_to_config(scaling_factor=float(1 / latents.std()))
    return vae


def train_checker(recipe: CheckerRecipe, seed: int, progress: Progress) -> Checker:
    """Cross-entropy on every attribute of fresh renders, with pixel noise so that it also reads decoded latents."""
    rng, checker = _seeded(seed, Checker)
    optimiser, schedule = _optimiser(checker.parameters(), recipe.learning_rate, recipe.steps)
    for _ in progress(range(recipe.steps), "checker"):
        scenes = _scenes(rng, recipe.batch)
        images = render(scenes, rng)
        noisy = images + recipe.pixel_noise * torch.rand(len(images), 1, 1, 1) * torch.randn_like(images)
        labels = _labels(scenes)
        loss = torch.stack([F.cross_entropy(logits, labels[name]) for name, logits in checker(noisy).items()]).sum()
        _step(loss, checker, optimiser, schedule)
    return checker.eval().requires_grad_(False)


def train_denoiser(
    recipe: DenoiserRecipe, seed: int, vae: AutoencoderKL, tokenizer: CLIPTokenizer, progress: Progress
) -> tuple[UNet2DConditionModel, CLIPTextModel]:
    """Noise prediction on latents of pre-encoded renders, captions never from the held-out tenth; returns the EMA.

    The squared error is weighted by 1 / alphas_cumprod, which makes it the error of v (arXiv 2202.00512, section 4).
    What a caption decides is settled at noise levels where the plain error is almost zero. A run with weight
    1 / sqrt(alphas_cumprod), stopped after some 2400 steps, still had position at chance at step 2000.
    """
    rng, model = _seeded(
        seed,
        lambda: nn.ModuleDict({"unet": networks.build_unet(), "text": networks.build_text_encoder(tokenizer)}),
    )
    model["unet"].to(memory_format=torch.channels_last)
    averaged = copy.deepcopy(model).requires_grad_(False)
    scenes, latents = _encoded(vae, rng, recipe.scenes)
    alphas = networks.build_scheduler().alphas_cumprod
    optimiser, schedule = _optimiser(
        model.parameters(), recipe.learning_rate, recipe.steps, recipe.weight_decay, betas=(0.9, 0.99)
    )
    for step in progress(range(recipe.steps), "denoiser"):
        rows = rng.integers(len(scenes), size=recipe.batch)
        clean = latents[torch.from_numpy(rows)]
        tokens = _tokens(tokenizer, [_training_caption(scenes[row], rng, recipe.caption_dropout) for row in rows])
        noise = torch.randn_like(clean)
        timesteps = torch.randint(0, len(alphas), (recipe.batch,))
        signal = alphas[timesteps].view(-1, 1, 1, 1)
        noisy = signal.sqrt() * clean + (1 - signal).sqrt() * noise
        predicted = model["unet"](noisy, timesteps, model["text"](tokens).last_hidden_state).sample
        loss = ((predicted - noise).square() / signal).mean()
        _step(loss, model, optimiser, schedule)
        _update_average(averaged, model, min(recipe.ema, (1 + step) / (10 + step)))
    averaged.eval()
    return averaged["unet"], averaged["text"]


def _seeded(seed: int, build: Callable[[], Module]) -> tuple[np.random.Generator, Module]:
    torch.manual_seed(seed)
    return np.random.default_rng(seed), build()


def _scenes(rng: np.random.Generator, count: int) -> list[Scene]:
    return [sample_scene(rng) for _ in range(count)]


def _renders(rng: np.random.Generator, count: int) -> Tensor:
    return render(_scenes(rng, count), rng)


def _labels(scenes: Sequence[Scene]) -> dict[str, Tensor]:
    labels = [scene.labels() for scene in scenes]
    return {name: torch.tensor([row[name] for row in labels]) for name in ATTRIBUTES}


@torch.no_grad()
def _encoded(vae: AutoencoderKL, rng: np.random.Generator, count: int) -> tuple[list[Scene], Tensor]:
    scenes = _scenes(rng, count)
    chunks = [
        vae.encode(render(scenes[start : start + 256], rng) * 2 - 1).latent_dist.mean for start in range(0, count, 256)
    ]
    return scenes, torch.cat(chunks) * vae.config.scaling_factor


def _training_caption(scene: Scene, rng: np.random.Generator, dropout: float) -> str:
    if rng.random() < dropout:
        return ""
    return sample_caption(scene, rng, held_out=False) or ""


def _tokens(tokenizer: CLIPTokenizer, captions: list[str]) -> Tensor:
    ids: Tensor = tokenizer(
        captions, padding="max_length", max_length=tokenizer.model_max_length, truncation=True, return_tensors="pt"
    ).input_ids
    return ids


def _optimiser(
    parameters: Iterator[nn.Parameter],
    learning_rate: float,
    steps: int,
    weight_decay: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    warmup: int = 100,
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    optimiser = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=weight_decay, betas=betas)

    def scale(step: int) -> float:
        return min(1.0, (step + 1) / warmup) * 0.5 * (1 + math.cos(math.pi * step / steps))

    return optimiser, torch.optim.lr_scheduler.LambdaLR(optimiser, scale)


def _step(
    loss: Tensor,
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
) -> None:
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimiser.step()
    optimiser.zero_grad(set_to_none=True)
    schedule.step()


@torch.no_grad()
def _update_average(averaged: nn.Module, model: nn.Module, decay: float) -> None:
    torch._foreach_lerp_(list(averaged.parameters()), list(model.parameters()), 1 - decay)


def _set_constant_posterior(vae: AutoencoderKL, std: float) -> None:
    """Make the encoder report log-variance 2 log(std) everywhere, through its quantisation convolution."""
    half = vae.config.latent_channels
    vae.quant_conv.weight.data[half:] = 0
    vae.quant_conv.bias.data[half:] = 2 * math.log(std)
