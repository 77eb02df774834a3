"""Build the pipelines of the shapes world."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from diffusers import (
    AutoencoderKL,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from safetensors.torch import save_file
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from stepcredit.shapes.build import flow_networks, flow_training, loop, networks, training
from stepcredit.shapes.build.packaging import package_ddim, package_flow
from stepcredit.shapes.build.stages import Stages, show_progress
from stepcredit.shapes.pipeline import load_pipeline
from stepcredit.shapes.tokenizer import build_flow_tokenizer, build_tokenizer

STAGES = {"ddim": ("checker", "autoencoder", "denoiser", "package"), "flow": ("flow", "package")}


def build_ddim(options: argparse.Namespace, stages: Stages) -> Path:
    """Run the selected stages of the DDIM pipeline; returns the folder of the package."""
    out, seed, tokenizer = options.out, options.seed, build_tokenizer()
    recipe = replace(training.DenoiserRecipe(), **overrides(options))
    if "checker" in options.stages:
        stages.run(
            "checker",
            out / "checker.safetensors",
            lambda: training.train_checker(training.CheckerRecipe(), seed, show_progress),
            lambda checker, path: save_file(checker.state_dict(), path),
        )
    if "autoencoder" in options.stages:
        stages.run(
            "autoencoder",
            out / "vae",
            lambda: training.train_autoencoder(training.AutoencoderRecipe(), seed, show_progress),
            lambda vae, path: vae.save_pretrained(path),
        )
    if "denoiser" in options.stages:
        vae = AutoencoderKL.from_pretrained(out / "vae")
        stages.run(
            "denoiser",
            out / "denoiser",
            lambda: training.train_denoiser(
                recipe,
                seed,
                lambda: training.new_denoiser(tokenizer),
                lambda rng: loop.shapes_data(vae, rng, recipe.scenes, recipe.caption_dropout),
                tokenizer,
                show_progress,
            ),
            save_denoiser,
        )
    if "package" in options.stages:
        settings = build_settings(options, stages, STAGES["ddim"], denoiser=asdict(recipe))
        package_ddim(load_ddim(out, tokenizer), out / "checker.safetensors", out / "package", settings)
    return Path(out / "package")


def build_flow(options: argparse.Namespace, stages: Stages) -> Path:
    """Run the selected stages of the flow pipeline; returns the folder of the package."""
    out, base = options.out, load_pipeline()
    recipe = replace(flow_training.FlowRecipe(), **overrides(options))
    tokenizer = build_flow_tokenizer()
    if "flow" in options.stages:
        stages.run(
            "flow",
            out / "flow",
            lambda: flow_training.train_flow(
                recipe,
                options.seed,
                base,
                lambda rng: loop.shapes_data(base.vae, rng, recipe.scenes, recipe.caption_dropout),
                tokenizer,
                show_progress,
            ),
            save_flow,
        )
    if "package" in options.stages:
        settings = build_settings(options, stages, STAGES["flow"], flow=asdict(recipe))
        package_flow(load_flow(out / "flow", base.vae, tokenizer), out / "flow_package", settings)
    return Path(out / "flow_package")


def save_denoiser(pair: tuple[UNet2DConditionModel, CLIPTextModel], folder: Path) -> None:
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
