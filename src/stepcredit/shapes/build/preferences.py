"""Train and package the preference scorers: `python -m stepcredit.shapes.build.preferences --out DIR`.

Each scorer keeps its result in DIR, so an interrupted build goes on where it stopped; the report then says how often
each agrees with its hidden rule and with its judge on pairs under captions that nothing was trained on. The images come
from the installed DDIM pipeline's autoencoder.
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
from stepcredit.shapes.build.preference_training import PreferenceRecipe, standardize, train_scorer, usual_images
from stepcredit.shapes.build.stages import Stages, show_progress
from stepcredit.shapes.pipeline import WEIGHTS, load_pipeline
from stepcredit.shapes.rules import RULES
from stepcredit.shapes.scorers import FOLDER, Scorer, load_scorer

HELD_OUT_PAIRS = 4096


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parse(arguments)
    torch.set_num_threads(options.threads)
    recipe = replace(PreferenceRecipe(), **_given(options))
    vae = load_pipeline().vae
    stages, folder = Stages(options.out), options.out / FOLDER
    folder.mkdir(exist_ok=True)

    @cache
    def data() -> Comparisons:
        return draw_comparisons(np.random.default_rng(options.seed), vae, recipe.captions, recipe.images, False)

    @cache
    def usual() -> tuple[Tensor, list[str]]:
        return usual_images(vae, np.random.default_rng(HELD_OUT_SEED))

    for name in RULES:
        stages.run(
            name,
            folder / f"{name}.safetensors",
            lambda name=name: train_scorer(name, recipe, options.seed, data(), show_progress),  # type: ignore[misc]
            lambda scorer, path: save(scorer, *usual(), path),
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
            name: agreements(load_scorer(name, options.out), name, held_out, recipe.temperature) for name in RULES
        },
    }
    text = json.dumps(report, indent=1)
    (folder / "report.json").write_text(text + "\n")
    print(text)
    if options.install:
        shutil.copytree(folder, WEIGHTS / FOLDER, dirs_exist_ok=True)


def save(scorer: Scorer, images: Tensor, captions: list[str], path: Path) -> None:
    """Write the scorer as float16, standardized on `images` as such."""
    rounded = {key: value.half().float() for key, value in scorer.state_dict().items()}
    scorer.load_state_dict(rounded)
    standardize(scorer, images, captions)
    path.write_bytes(to_bytes({key: value.half() for key, value in scorer.state_dict().items()}))


def _given(options: argparse.Namespace) -> dict[str, int]:
    names = ("steps", "captions")
    return {name: getattr(options, name) for name in names if getattr(options, name) is not None}


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m stepcredit.shapes.build.preferences", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for the scorers and their report")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--steps", type=int, help="training steps of a scorer; more for some rules")
    parser.add_argument("--captions", type=int, help="captions whose images are compared")
    parser.add_argument("--held-out-pairs", type=int, default=HELD_OUT_PAIRS, help="pairs of the report")
    parser.add_argument("--install", action="store_true", help="make these the scorers of this checkout")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
