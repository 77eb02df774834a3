"""Train and package a bundled pipeline: `python -m stepcredit.shapes.build.build --pipeline flow --out DIR`.

Each stage stores its result in DIR. To resume an interrupted build, run the same command again.

ddim: trains the checker, the autoencoder and the denoiser, then writes the float16 package with its report.
flow: trains a transformer on latents of the installed DDIM pipeline, then writes its package with a report.
The reports hold the accuracy on held-out captions, according to the checker.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, SD3Transformer2DModel, StableDiffusion3Pipeline, UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from stepcredit.shapes.build import flow_networks, flow_training, networks, training
from stepcredit.shapes.build.packaging import package_ddim, package_flow
from stepcredit.shapes.build.stages import Stages, show_progress
from stepcredit.shapes.pipeline import WEIGHTS, load_pipeline
from stepcredit.shapes.tokenizer import build_flow_tokenizer, build_tokenizer

STAGES = {"ddim": ("checker", "autoencoder", "denoiser", "package"), "flow": ("flow", "package")}


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parse(arguments)
    torch.set_num_threads(options.threads)
    stages = Stages(options.out)
    package = build_flow(options, stages) if options.pipeline == "flow" else build_ddim(options, stages)
    if options.install:
        shutil.copytree(package, WEIGHTS, dirs_exist_ok=True)


def build_ddim(options: argparse.Namespace, stages: Stages) -> Path:
    """Run the selected stages of the DDIM pipeline; returns the folder of the package."""
    out, seed, tokenizer = options.out, options.seed, build_tokenizer()
    recipe = replace(training.DenoiserRecipe(), **_overrides(options))
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
            lambda: training.train_denoiser(recipe, seed, vae, tokenizer, show_progress),
            _save_denoiser,
        )
    if "package" in options.stages:
        pipeline = networks.assemble(
            AutoencoderKL.from_pretrained(out / "vae"),
            UNet2DConditionModel.from_pretrained(out / "denoiser" / "unet"),
            CLIPTextModel.from_pretrained(out / "denoiser" / "text_encoder"),
            tokenizer,
        )
        settings = _settings(options, stages, denoiser=asdict(recipe))
        package_ddim(pipeline, out / "checker.safetensors", out / "package", settings)
    return Path(out / "package")


def build_flow(options: argparse.Namespace, stages: Stages) -> Path:
    """Run the selected stages of the flow pipeline; returns the folder of the package."""
    out, base = options.out, load_pipeline()
    recipe = replace(flow_training.FlowRecipe(), **_overrides(options))
    if "flow" in options.stages:
        stages.run(
            "flow",
            out / "flow",
            lambda: flow_training.train_flow(recipe, options.seed, base, show_progress),
            _save_flow,
        )
    if "package" in options.stages:
        pipeline = flow_networks.assemble(
            base.vae,
            SD3Transformer2DModel.from_pretrained(out / "flow" / "transformer"),
            CLIPTextModelWithProjection.from_pretrained(out / "flow" / "text_encoder"),
            CLIPTextModelWithProjection.from_pretrained(out / "flow" / "text_encoder_2"),
            build_flow_tokenizer(),
        )
        package_flow(pipeline, out / "flow_package", _settings(options, stages, flow=asdict(recipe)))
    return Path(out / "flow_package")


def _save_denoiser(pair: tuple[UNet2DConditionModel, CLIPTextModel], folder: Path) -> None:
    pair[0].save_pretrained(folder / "unet")
    pair[1].save_pretrained(folder / "text_encoder")


def _save_flow(pipeline: StableDiffusion3Pipeline, folder: Path) -> None:
    for name in ("transformer", "text_encoder", "text_encoder_2"):
        getattr(pipeline, name).save_pretrained(folder / name)


def _overrides(options: argparse.Namespace) -> dict[str, int]:
    return {} if options.denoiser_steps is None else {"steps": options.denoiser_steps}


def _settings(options: argparse.Namespace, stages: Stages, **recipes: dict[str, Any]) -> dict[str, Any]:
    seconds = {name: value for name, value in stages.seconds.items() if name in STAGES[options.pipeline]}
    return {"seed": options.seed, "threads": options.threads, **recipes, "seconds": seconds}


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m stepcredit.shapes.build.build", description=__doc__)
    parser.add_argument("--pipeline", choices=tuple(STAGES), default="ddim")
    parser.add_argument("--out", type=Path, required=True, help="folder of the stages' results and the package")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument(
        "--stages", nargs="+", help="; ".join(f"{name}: {', '.join(stages)}" for name, stages in STAGES.items())
    )
    parser.add_argument("--install", action="store_true", help="replace the bundled pipeline of this checkout")
    parser.add_argument("--denoiser-steps", type=int, help="training steps of the UNet or transformer")
    options = parser.parse_args(arguments)
    known = STAGES[options.pipeline]
    options.stages = options.stages or known
    for stage in options.stages:
        if stage not in known:
            parser.error(f"--pipeline {options.pipeline} has no stage '{stage}'; its stages are {', '.join(known)}")
    return options


if __name__ == "__main__":
    main()
