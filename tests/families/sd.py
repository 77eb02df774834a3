"""Stable Diffusion 1.x and 2.x: 16x16 images, 4x8x8 latents, DDIM."""

from __future__ import annotations

from typing import Any

from diffusers import StableDiffusionPipeline
from tests.tiny import tiny_sd


def build(seed: int = 0, **scheduler: Any) -> StableDiffusionPipeline:
    """The keywords change the scheduler: prediction_type is epsilon, v_prediction or sample."""
    return tiny_sd(seed, **scheduler)
