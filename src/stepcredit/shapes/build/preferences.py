"""Train and package the preference scorers: `python -m stepcredit.shapes.build.preferences --out DIR`.

Each trained scorer is stored in DIR. To resume an interrupted build, run the same command again. report.json then holds
how often each scorer agrees with its rule and with the noisy judge, on pairs of images with held-out captions. The
images pass through the autoencoder of the installed DDIM pipeline.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save as to_bytes
from torch import Tensor

from stepcredit.shapes.build.preference_agreement import HELD_OUT_SEED, agreements
from stepcredit.shapes.build.preference_pairs import Comparisons, draw_comparisons
from stepcredit.shapes.build.preference_training import (
    PreferenceRecipe,
    calibration_images,
    score_comparisons,
    standardize,
    train_scorer,
)
from stepcredit.shapes.build.stages import Stages, show_progress
from stepcredit.shapes.pipeline import WEIGHTS, load_pipeline
from stepcredit.shapes.rules import RULES
from stepcredit.shapes.scorers import FOLDER, Scorer, load_scorer

HELD_OUT_PAIRS = 4096


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parse(arguments)
    torch.set_num_threads(options.threads)
    recipe = replace(PreferenceRecipe(), **_overrides(options))
    vae = load_pipeline().vae
    stages, folder = Stages(options.out), options.out / FOLDER
    folder.mkdir(exist_ok=True)

    @cache
    def data() -> Comparisons:
        return draw_comparisons(np.random.default_rng(options.seed), vae, recipe.captions, recipe.images, False)

    @cache
    def calibration() -> tuple[Tensor, list[str]]:
        return calibration_images(vae, np.random.default_rng(HELD_OUT_SEED))

    for name in RULES:
        stages.run(
            name,
            folder / f"{name}.safetensors",
            lambda name=name: train_scorer(name, recipe, options.seed, data(), show_progress),  # type: ignore[misc]
            lambda scorer, path: save(scorer, *calibration(), path),
        )
    held_out = draw_comparisons(np.random.default_rng(HELD_OUT_SEED), vae, options.held_out_pairs, 2, True)
    report = {
        "seed": options.seed,
        "threads": options.threads,
        "recipe": asdict(recipe),
        "seconds": stages.seconds,
        "machine": {"processor": platform.machine(), "torch": torch.__version__},
        "held_out_pairs": len(held_out),
        "agreement": {
            name: agreements(
                score_comparisons(load_scorer(name, options.out), held_out), name, held_out, recipe.temperature
            )
            for name in RULES
        },
    }
    text = json.dumps(report, indent=1)
    (folder / "report.json").write_text(text + "\n")
    print(text)
    if options.install:
        shutil.copytree(folder, WEIGHTS / FOLDER, dirs_exist_ok=True)


def save(scorer: Scorer, images: Tensor, captions: list[str], path: Path) -> None:
    """Write the scorer as float16, after standardizing its rounded weights on `images`."""
    rounded = {key: value.half().float() for key, value in scorer.state_dict().items()}
    scorer.load_state_dict(rounded)
    standardize(scorer, images, captions)
    path.write_bytes(to_bytes({key: value.half() for key, value in scorer.state_dict().items()}))


def _overrides(options: argparse.Namespace) -> dict[str, int]:
    names = ("steps", "captions")
    return {name: getattr(options, name) for name in names if getattr(options, name) is not None}


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m stepcredit.shapes.build.preferences", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the scorers and their report")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--steps", type=int, help="training steps of a scorer; some rules take a multiple")
    parser.add_argument("--captions", type=int, help="number of training captions")
    parser.add_argument("--held-out-pairs", type=int, default=HELD_OUT_PAIRS, help="pairs of images in the report")
    parser.add_argument("--install", action="store_true", help="replace the bundled scorers of this checkout")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
