"""Build the pipelines of the shapes world."""

from __future__ import annotations

import argparse
from dataclasses import asdict, replace
from pathlib import Path

from safetensors.torch import save_file

from stepcredit.shapes.build import flow_training, loop, training
from stepcredit.shapes.build.packaging import package_ddim, package_flow
from stepcredit.shapes.build.parts import (
    build_settings,
    load_ddim,
    load_flow,
    overrides,
    run_autoencoder,
    run_denoiser,
    save_flow,
)
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
    run_autoencoder(
        options, stages, lambda: training.train_autoencoder(training.AutoencoderRecipe(), seed, show_progress)
    )
    run_denoiser(
        options,
        stages,
        lambda vae: training.train_denoiser(
            recipe,
            seed,
            lambda: training.new_denoiser(tokenizer),
            lambda rng: loop.shapes_data(vae, rng, recipe.scenes, recipe.caption_dropout),
            tokenizer,
            show_progress,
        ),
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
