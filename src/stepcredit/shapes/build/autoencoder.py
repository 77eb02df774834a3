"""Encode and decode images with the autoencoder that both pipelines share."""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL
from torch import Tensor


@torch.no_grad()
def encode(vae: AutoencoderKL, images: Tensor) -> Tensor:
    """Scaled latents (B,4,8,8) of images (B,3,32,32) in [0,1]: the posterior's mean."""
    latents: Tensor = vae.encode(images * 2 - 1).latent_dist.mean * vae.config.scaling_factor
    return latents


@torch.no_grad()
def decode(vae: AutoencoderKL, latents: Tensor) -> Tensor:
    """Images (B,3,32,32) in [0,1] of scaled latents (B,4,8,8)."""
    images: Tensor = vae.decode(latents / vae.config.scaling_factor).sample
    return (images / 2 + 0.5).clamp(0, 1)


def psnr(decoded: Tensor, images: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of images in [0,1]."""
    return float(-10 * (decoded - images).square().mean().log10())
