"""SDXL: two text encoders, pooled embeddings and sizes as added conditions, Euler."""

from __future__ import annotations

from diffusers import StableDiffusionXLPipeline
from tests.tiny import tiny_sdxl


def build(seed: int = 0) -> StableDiffusionXLPipeline:
    return tiny_sdxl(seed)
