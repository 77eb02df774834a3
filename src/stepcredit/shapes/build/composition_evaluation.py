"""Evaluate a pipeline of the composition world, and its autoencoder, with the detector."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, DiffusionPipeline

from stepcredit.bundled import BundledModel
from stepcredit.shapes.build.autoencoder import decode, encode, psnr
from stepcredit.shapes.composition.captions import SPLITS, Split, parse, sample_caption
from stepcredit.shapes.composition.claims import TASKS
from stepcredit.shapes.composition.detector import detect
from stepcredit.shapes.composition.facts import facts
from stepcredit.shapes.composition.scenes import render, sample_scene
from stepcredit.shapes.pipeline import CALL

SEED = 2026
PER_TASK = 96
UNSEEN_TASKS = ("colors", "position", "color_attribution")
"""The tasks that have captions with unseen pairs."""


def evaluate_composition_autoencoder(vae: AutoencoderKL, per_task: int = 200, seed: int = SEED) -> dict[str, float]:
    """After encoding and decoding new renders: the share that shows its caption, by task, and the PSNR in dB."""
    rng = np.random.default_rng(seed)
    captions = [sample_caption(rng, "training", task) for task in TASKS for _ in range(per_task)]
    images = render([sample_scene(parse(caption), rng) for caption in captions], rng)
    decoded = torch.cat([decode(vae, encode(vae, chunk)) for chunk in images.split(200)])
    return {**score_by_task(decoded, captions), "psnr": round(psnr(decoded, images), 2)}


def evaluate_composition(
    pipeline: DiffusionPipeline,
    model: BundledModel,
    per_task: int = PER_TASK,
    splits: Sequence[Split] = SPLITS,
    guidance: float | None = None,
    steps: int | None = None,
    seed: int = SEED,
) -> dict[str, dict[str, float]]:
    """For each split: the share of samples of which every fact of the caption holds, by task and over all of them.

    The DDIM pipeline is sampled with eta 1, as in training.
    """
    call: dict[str, Any] = dict(CALL[model.name])
    if model.architecture == "ddim":
        call["eta"] = 1.0
    results: dict[str, dict[str, float]] = {}
    for split in splits:
        rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
        tasks = UNSEEN_TASKS if split == "unseen_pairs" else TASKS
        captions = [sample_caption(rng, split, task) for task in tasks for _ in range(per_task)]
        images = [
            pipeline(
                chunk,
                num_inference_steps=steps or model.steps,
                guidance_scale=model.guidance if guidance is None else guidance,
                generator=generator,
                output_type="pt",
                **call,
            ).images
            for chunk in _chunks(captions)
        ]
        results[split] = score_by_task(torch.cat(images), captions)
    return results


def score_by_task(images: torch.Tensor, captions: Sequence[str]) -> dict[str, float]:
    """The share of images of which every fact of the caption holds: `all`, then by task."""
    claims = [parse(caption) for caption in captions]
    hits = [all(facts(claim, found).values()) for claim, found in zip(claims, detect(images), strict=True)]
    rows: dict[str, list[bool]] = {"all": hits}
    for claim, hit in zip(claims, hits, strict=True):
        rows.setdefault(claim.task, []).append(hit)
    return {name: round(float(np.mean(row)), 4) for name, row in rows.items()}


def _chunks(captions: Sequence[str], size: int = 96) -> Iterator[list[str]]:
    for start in range(0, len(captions), size):
        yield list(captions[start : start + size])
