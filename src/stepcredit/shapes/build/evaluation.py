"""Evaluate the checker on renders, the autoencoder on renders, and a pipeline on held-out captions."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, DiffusionPipeline

from stepcredit.shapes.build.autoencoder import decode, encode, psnr
from stepcredit.shapes.build.loop import draw_images, draw_scenes
from stepcredit.shapes.checker import Checker, accuracy_table, attribute_hits
from stepcredit.shapes.render import render
from stepcredit.shapes.world import caption, held_out_captions

CAPTIONS = 512
SEED = 2026


def evaluate_checker(checker: Checker, count: int = 2000, seed: int = SEED) -> dict[str, float]:
    """Attribute accuracy on new renders whose captions mention all attributes."""
    rng = np.random.default_rng(seed)
    scenes = draw_scenes(rng, count)
    return accuracy_table(attribute_hits(checker, render(scenes, rng), [caption(scene) for scene in scenes]))


def evaluate_autoencoder(vae: AutoencoderKL, count: int = 512, seed: int = SEED) -> float:
    """Peak signal-to-noise ratio in dB of new renders after encoding and decoding."""
    images = draw_images(np.random.default_rng(seed), count)
    return psnr(decode(vae, encode(vae, images)), images)


def evaluate_pipeline(
    pipeline: DiffusionPipeline,
    checker: Checker,
    count: int = CAPTIONS,
    steps: int = 20,
    guidance: float = 3.0,
    batch: int = 64,
    seed: int = SEED,
    **call: Any,
) -> dict[str, float]:
    """Attribute accuracy of samples for held-out captions; `call` is passed to the pipeline."""
    captions = held_out_captions(count, seed)
    generator = torch.Generator().manual_seed(seed)
    pipeline.set_progress_bar_config(disable=True)
    hits = []
    for start in range(0, count, batch):
        prompts = captions[start : start + batch]
        images = pipeline(
            prompts,
            num_inference_steps=steps,
            guidance_scale=guidance,
            generator=generator,
            output_type="pt",
            **call,
        ).images
        hits += attribute_hits(checker, images, prompts)
    return accuracy_table(hits)
