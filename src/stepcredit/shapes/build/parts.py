"""Stages that several builds share: how their results are made, saved and loaded."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from diffusers import (
    AutoencoderKL,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from stepcredit.shapes.build import flow_networks, networks
from stepcredit.shapes.build.stages import Stages

Denoiser = tuple[UNet2DConditionModel, CLIPTextModel]


def run_autoencoder(options: argparse.Namespace, stages: Stages, train: Callable[[], AutoencoderKL]) -> None:
    """Run the stage `autoencoder` if it is selected."""
    if "autoencoder" in options.stages:
        stages.run("autoencoder", options.out / "vae", train, lambda vae, path: vae.save_pretrained(path))


def run_denoiser(options: argparse.Namespace, stages: Stages, train: Callable[[AutoencoderKL], Denoiser]) -> None:
    """Run the stage `denoiser` if it is selected, with the result of the stage `autoencoder`."""
    if "denoiser" in options.stages:
        vae = AutoencoderKL.from_pretrained(options.out / "vae")
        stages.run("denoiser", options.out / "denoiser", lambda: train(vae), _save_denoiser)


def _save_denoiser(pair: Denoiser, folder: Path) -> None:
    pair[0].save_pretrained(folder / "unet")
    pair[1].save_pretrained(folder / "text_encoder")


def load_ddim(out: Path, tokenizer: CLIPTokenizer) -> StableDiffusionPipeline:
    """The pipeline of the stages `autoencoder` and `denoiser`."""
    return networks.assemble(
        AutoencoderKL.from_pretrained(out / "vae"),
        UNet2DConditionModel.from_pretrained(out / "denoiser" / "unet"),
        CLIPTextModel.from_pretrained(out / "denoiser" / "text_encoder"),
        tokenizer,
    )


def save_flow(pipeline: StableDiffusion3Pipeline, folder: Path) -> None:
    for name in ("transformer", "text_encoder", "text_encoder_2"):
        getattr(pipeline, name).save_pretrained(folder / name)


def load_flow(folder: Path, vae: AutoencoderKL, tokenizer: CLIPTokenizer) -> StableDiffusion3Pipeline:
    """The pipeline of the stage `flow`, which is stored in `folder`."""
    return flow_networks.assemble(
        vae,
        SD3Transformer2DModel.from_pretrained(folder / "transformer"),
        CLIPTextModelWithProjection.from_pretrained(folder / "text_encoder"),
        CLIPTextModelWithProjection.from_pretrained(folder / "text_encoder_2"),
        tokenizer,
    )


def overrides(options: argparse.Namespace) -> dict[str, int]:
    """What the command line changes in the recipe of a denoiser."""
    return {} if options.denoiser_steps is None else {"steps": options.denoiser_steps}


def build_settings(
    options: argparse.Namespace, stages: Stages, names: Sequence[str], **recipes: dict[str, Any]
) -> dict[str, Any]:
    """What the report says of how the pipeline was made: seed, threads, recipes and the seconds of each stage."""
    seconds = {name: value for name, value in stages.seconds.items() if name in names}
    return {"seed": options.seed, "threads": options.threads, **recipes, "seconds": seconds}
