"""Train the checker and the DDIM pipeline: the autoencoder, and the denoiser with its text encoder.

Each function takes a recipe and a seed, draws its data from the renderer and returns networks in eval mode.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from stepcredit.shapes.build import loop, networks
from stepcredit.shapes.build.loop import Draw, Progress
from stepcredit.shapes.checker import Checker
from stepcredit.shapes.render import render
from stepcredit.shapes.world import ATTRIBUTES, Scene


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


def train_autoencoder(
    recipe: AutoencoderRecipe,
    seed: int,
    progress: Progress,
    build: Callable[[], AutoencoderKL] = networks.build_vae,
    draw_images: Callable[[np.random.Generator, int], Tensor] = loop.draw_images,
) -> AutoencoderKL:
    """Train on new renders with the loss L1 + squared error + latent_penalty * |z|^2, z = posterior mean + noise.

    Training with a sampled posterior makes no progress on this data, so the noise is constant. Afterwards the
    log-variance head is set to that constant, and `scaling_factor` to one over the standard deviation of the latents.

    Args:
        build: the network to start from.
        draw_images: (generator, count) -> renders (count,3,32,32) in [0,1].
    """
    rng, vae = loop.seed_and_build(seed, build)
    optimizer, schedule = loop.build_optimizer(vae.parameters(), recipe.learning_rate, recipe.steps, weight_decay=0.0)
    for _ in progress(range(recipe.steps), "autoencoder"):
        images = draw_images(rng, recipe.batch) * 2 - 1
        mean = vae.encode(images).latent_dist.mean
        decoded = vae.decode(mean + recipe.latent_noise * torch.randn_like(mean)).sample
        error = decoded - images
        loss = error.abs().mean() + error.square().mean() + recipe.latent_penalty * mean.square().mean()
        loop.optimizer_step(loss, vae, optimizer, schedule)
    vae.eval().requires_grad_(False)
    _set_constant_posterior(vae, recipe.latent_noise)
    latents = vae.encode(draw_images(rng, 512) * 2 - 1).latent_dist.mean
    vae.register_to_config(scaling_factor=float(1 / latents.std()))
    return vae


def train_checker(recipe: CheckerRecipe, seed: int, progress: Progress) -> Checker:
    """Train with cross-entropy on each attribute of new renders. Pixel noise makes it robust to decoded latents."""
    rng, checker = loop.seed_and_build(seed, Checker)
    optimizer, schedule = loop.build_optimizer(checker.parameters(), recipe.learning_rate, recipe.steps)
    for _ in progress(range(recipe.steps), "checker"):
        scenes = loop.draw_scenes(rng, recipe.batch)
        images = render(scenes, rng)
        noisy = images + recipe.pixel_noise * torch.rand(len(images), 1, 1, 1) * torch.randn_like(images)
        labels = _labels(scenes)
        loss = torch.stack([F.cross_entropy(logits, labels[name]) for name, logits in checker(noisy).items()]).sum()
        loop.optimizer_step(loss, checker, optimizer, schedule)
    return checker.eval().requires_grad_(False)


def train_denoiser(
    recipe: DenoiserRecipe,
    seed: int,
    build: Callable[[], nn.ModuleDict],
    data: Callable[[np.random.Generator], Draw],
    tokenizer: CLIPTokenizer,
    progress: Progress,
) -> tuple[UNet2DConditionModel, CLIPTextModel]:
    """Train noise prediction on encoded renders with captions, and return the EMA of the weights.

    The squared error is weighted by 1 / alphas_cumprod, which makes it the error of v (arXiv 2202.00512, section 4):
    the caption matters most at noise levels where the unweighted error is almost zero. With the weight
    1 / sqrt(alphas_cumprod), the position was still at chance level after 2000 steps.

    Args:
        build: the networks to start from: `unet` and `text`.
        data: the training pairs, drawn with the given generator.
    """
    rng, model = loop.seed_and_build(seed, build)
    model["unet"].to(memory_format=torch.channels_last)
    averaged = copy.deepcopy(model).requires_grad_(False)
    draw = data(rng)
    alphas = networks.build_scheduler().alphas_cumprod
    optimizer, schedule = loop.build_optimizer(
        model.parameters(), recipe.learning_rate, recipe.steps, recipe.weight_decay, betas=(0.9, 0.99)
    )
    for step in progress(range(recipe.steps), "denoiser"):
        clean, captions = draw(recipe.batch)
        tokens = _tokens(tokenizer, captions)
        noise = torch.randn_like(clean)
        timesteps = torch.randint(0, len(alphas), (recipe.batch,))
        signal = alphas[timesteps].view(-1, 1, 1, 1)
        noisy = signal.sqrt() * clean + (1 - signal).sqrt() * noise
        predicted = model["unet"](noisy, timesteps, model["text"](tokens).last_hidden_state).sample
        loss = ((predicted - noise).square() / signal).mean()
        loop.optimizer_step(loss, model, optimizer, schedule)
        loop.update_average(averaged, model, recipe.ema, step)
    averaged.eval()
    return averaged["unet"], averaged["text"]


def new_denoiser(tokenizer: CLIPTokenizer) -> nn.ModuleDict:
    """An untrained UNet and an untrained text encoder."""
    return nn.ModuleDict({"unet": networks.build_unet(), "text": networks.build_text_encoder(tokenizer)})


def _labels(scenes: Sequence[Scene]) -> dict[str, Tensor]:
    labels = [scene.labels() for scene in scenes]
    return {name: torch.tensor([row[name] for row in labels]) for name in ATTRIBUTES}


def _tokens(tokenizer: CLIPTokenizer, captions: list[str]) -> Tensor:
    ids: Tensor = tokenizer(
        captions, padding="max_length", max_length=tokenizer.model_max_length, truncation=True, return_tensors="pt"
    ).input_ids
    return ids


def _set_constant_posterior(vae: AutoencoderKL, std: float) -> None:
    """Make the encoder return the log-variance 2 log(std) everywhere, through its quantization convolution."""
    half = vae.config.latent_channels
    vae.quant_conv.weight.data[half:] = 0
    vae.quant_conv.bias.data[half:] = 2 * math.log(std)
