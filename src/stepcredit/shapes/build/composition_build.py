"""Build the pipeline of the composition world."""

from __future__ import annotations

import argparse
from dataclasses import asdict, replace
from pathlib import Path

from torch import nn

from stepcredit.shapes.build import networks, training
from stepcredit.shapes.build.mislabeled import composition_data, draw_images
from stepcredit.shapes.build.packaging import package_composition
from stepcredit.shapes.build.parts import build_settings, load_ddim, overrides, run_autoencoder, run_denoiser
from stepcredit.shapes.build.stages import Stages, show_progress
from stepcredit.shapes.pipeline import COMPOSITION, load_pipeline
from stepcredit.shapes.tokenizer import build_composition_tokenizer

STAGES = {"composition": ("autoencoder", "denoiser", "package")}

PAIRS = 40_000
"""Training pairs of a picture and a caption."""

AUTOENCODER_RECIPE = training.AutoencoderRecipe(steps=3000, learning_rate=8e-4)
DENOISER_RECIPE = training.DenoiserRecipe(steps=8000, scenes=PAIRS, caption_dropout=0.0)


def build_ddim(options: argparse.Namespace, stages: Stages) -> Path:
    """Run the selected stages of the DDIM pipeline; returns the folder of the package.

    The autoencoder and the UNet start from those of the bundled shapes pipeline, the text encoder from random weights.
    """
    out, seed, tokenizer = options.out, options.seed, build_composition_tokenizer()
    recipe = replace(DENOISER_RECIPE, **overrides(options))
    run_autoencoder(
        options,
        stages,
        lambda: training.train_autoencoder(
            AUTOENCODER_RECIPE,
            seed,
            show_progress,
            lambda: load_pipeline().vae.train().requires_grad_(True),
            draw_images,
        ),
    )
    run_denoiser(
        options,
        stages,
        lambda vae: training.train_denoiser(
            recipe,
            seed,
            lambda: nn.ModuleDict(
                {"unet": load_pipeline().unet.train(), "text": networks.build_text_encoder(tokenizer)}
            ),
            lambda rng: composition_data(vae, rng, recipe.scenes),
            tokenizer,
            show_progress,
        ),
    )
    if "package" in options.stages:
        settings = build_settings(
            options, stages, STAGES["composition"], autoencoder=asdict(AUTOENCODER_RECIPE), denoiser=asdict(recipe)
        )
        package_composition(COMPOSITION, load_ddim(out, tokenizer), out / "package", settings)
    return Path(out / "package")
