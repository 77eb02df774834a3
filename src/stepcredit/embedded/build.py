"""Train and package the embedded pipeline: `python -m stepcredit.embedded.build --out DIR`.

Stages run in order and keep their result in DIR, so an interrupted build goes on where it stopped:
checker, autoencoder, denoiser, then the report (attribute accuracy on held-out captions) and the float16 package.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from rich.progress import Progress as Bar
from rich.progress import SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel

from stepcredit.embedded import networks, training
from stepcredit.embedded.checker import Checker, accuracy_table, attribute_hits
from stepcredit.embedded.pipeline import WEIGHTS
from stepcredit.embedded.render import render
from stepcredit.embedded.tokenizer import build_tokenizer
from stepcredit.embedded.world import caption, held_out_captions, sample_scene

EVALUATION_CAPTIONS = 512
EVALUATION_SEED = 2026


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parse(arguments)
    torch.set_num_threads(options.threads)
    out: Path = options.out
    out.mkdir(parents=True, exist_ok=True)
    seconds: dict[str, float] = _read_json(out / "seconds.json")
    seed: int = options.seed

    def timed(name: str, path: Path, build: Callable[[], Any], save: Callable[[Any, Path], None]) -> None:
        """Run a stage unless its result is there; the result appears under its name only when it is whole."""
        if path.exists():
            return
        started = time.monotonic()
        partial = path.with_name(f"partial-{path.name}")
        save(build(), partial)
        partial.rename(path)
        seconds[name] = round(time.monotonic() - started, 1)
        (out / "seconds.json").write_text(json.dumps(seconds, indent=1))

    tokenizer = build_tokenizer()
    recipe = training.DenoiserRecipe(steps=options.denoiser_steps)
    if "checker" in options.stages:
        timed(
            "checker",
            out / "checker.safetensors",
            lambda: training.train_checker(training.CheckerRecipe(), seed, _progress),
            lambda checker, path: save_file(checker.state_dict(), path),
        )
    if "autoencoder" in options.stages:
        timed(
            "autoencoder",
            out / "vae",
            lambda: training.train_autoencoder(training.AutoencoderRecipe(), seed, _progress),
            lambda vae, path: vae.save_pretrained(path),
        )
    if "denoiser" in options.stages:
        vae = AutoencoderKL.from_pretrained(out / "vae")
        timed(
            "denoiser",
            out / "denoiser",
            lambda: training.train_denoiser(recipe, seed, vae, tokenizer, _progress),
            _save_denoiser,
        )
    if "package" in options.stages:
        package(out, seconds, {"seed": seed, "threads": options.threads, "denoiser": asdict(recipe)})
    if options.install:
        shutil.copytree(out / "package", WEIGHTS, dirs_exist_ok=True)


def package(out: Path, seconds: dict[str, float], how: dict[str, Any]) -> None:
    """Write the float16 pipeline and checker to `out`/package, reload them, judge them, and write report.json."""
    target = out / "package"
    pipeline = networks.assemble(
        AutoencoderKL.from_pretrained(out / "vae"),
        UNet2DConditionModel.from_pretrained(out / "denoiser" / "unet"),
        CLIPTextModel.from_pretrained(out / "denoiser" / "text_encoder"),
        build_tokenizer(),
    )
    for part in (pipeline.vae, pipeline.unet, pipeline.text_encoder):
        part.half()
    pipeline.save_pretrained(target / "pipeline")
    weights = {name: value.half() for name, value in load_file(out / "checker.safetensors").items()}
    save_file(weights, target / "checker.safetensors")

    checker = Checker()
    checker.load_state_dict({name: value.float() for name, value in load_file(target / "checker.safetensors").items()})
    pipeline = StableDiffusionPipeline.from_pretrained(target / "pipeline", dtype=torch.float32)
    report = {
        **how,
        "seconds": seconds,
        "machine": {"processor": platform.machine(), "torch": torch.__version__},
        "checker_on_renders": evaluate_checker(checker.eval()),
        "autoencoder_psnr": evaluate_autoencoder(pipeline.vae),
        "samples": evaluate_pipeline(pipeline, checker),
    }
    (target / "report.json").write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report, indent=1))


def _save_denoiser(pair: tuple[UNet2DConditionModel, CLIPTextModel], folder: Path) -> None:
    pair[0].save_pretrained(folder / "unet")
    pair[1].save_pretrained(folder / "text_encoder")


def evaluate_checker(checker: Checker, count: int = 2000, seed: int = EVALUATION_SEED) -> dict[str, float]:
    """Attribute accuracy on fresh renders whose captions mention everything."""
    rng = np.random.default_rng(seed)
    scenes = [sample_scene(rng) for _ in range(count)]
    return accuracy_table(attribute_hits(checker, render(scenes, rng), [caption(scene) for scene in scenes]))


@torch.no_grad()
def evaluate_autoencoder(vae: AutoencoderKL, count: int = 512, seed: int = EVALUATION_SEED) -> float:
    """Peak signal-to-noise ratio in dB of fresh renders through the autoencoder."""
    rng = np.random.default_rng(seed)
    images = render([sample_scene(rng) for _ in range(count)], rng)
    decoded = vae.decode(vae.encode(images * 2 - 1).latent_dist.mean).sample / 2 + 0.5
    return float(-10 * (decoded.clamp(0, 1) - images).square().mean().log10())


@torch.no_grad()
def evaluate_pipeline(
    pipeline: StableDiffusionPipeline,
    checker: Checker,
    count: int = EVALUATION_CAPTIONS,
    steps: int = 20,
    guidance: float = 3.0,
    eta: float = 1.0,
    batch: int = 64,
) -> dict[str, float]:
    """Attribute accuracy of samples for captions never used in training."""
    captions = held_out_captions(count, EVALUATION_SEED)
    generator = torch.Generator().manual_seed(EVALUATION_SEED)
    pipeline.set_progress_bar_config(disable=True)
    hits = []
    for start in range(0, count, batch):
        prompts = captions[start : start + batch]
        images = pipeline(
            prompts,
            num_inference_steps=steps,
            guidance_scale=guidance,
            eta=eta,
            generator=generator,
            output_type="pt",
        ).images
        hits += attribute_hits(checker, images, prompts)
    return accuracy_table(hits)


def _progress(steps: Sequence[int], name: str) -> Iterator[int]:
    """A bar on a terminal; elsewhere a line every twentieth of the way."""
    columns = (SpinnerColumn(), "{task.description}", TextColumn("{task.completed}/{task.total}"))
    with Bar(*columns, TimeElapsedColumn(), "left", TimeRemainingColumn()) as bar:
        started = time.monotonic()
        for step in bar.track(steps, description=name):
            if not bar.console.is_terminal and step % max(len(steps) // 20, 1) == 0:
                print(f"{name} {step}/{len(steps)} after {time.monotonic() - started:.0f} s", flush=True)
            yield step


def _read_json(path: Path) -> dict[str, float]:
    return json.loads(path.read_text()) if path.exists() else {}


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    stages = ("checker", "autoencoder", "denoiser", "package")
    parser = argparse.ArgumentParser(prog="python -m stepcredit.embedded.build", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for stage results and the package")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--stages", nargs="+", choices=stages, default=stages)
    parser.add_argument(
        "--install", action="store_true", help="make the package the embedded pipeline of this checkout"
    )
    parser.add_argument("--denoiser-steps", type=int, default=training.DenoiserRecipe.steps)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
