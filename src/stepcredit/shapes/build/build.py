"""Train and package a bundled pipeline: `python -m stepcredit.shapes.build.build --pipeline flow --out DIR`.

Each stage stores its result in DIR. To resume an interrupted build, run the same command again.

ddim: trains the checker, the autoencoder and the denoiser, then writes the float16 package with its report.
flow: trains a transformer on latents of the installed DDIM pipeline, then writes its package with a report.
composition: trains the autoencoder and the denoiser of the composition world, from those of the installed DDIM
pipeline.
The reports hold the scores on held-out captions.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch

from stepcredit.shapes.build import composition_build, shapes_build
from stepcredit.shapes.build.stages import Stages
from stepcredit.shapes.pipeline import WEIGHTS

STAGES = {**shapes_build.STAGES, **composition_build.STAGES}
_BUILDS = {
    "ddim": shapes_build.build_ddim,
    "flow": shapes_build.build_flow,
    "composition": composition_build.build_ddim,
}


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parse(arguments)
    torch.set_num_threads(options.threads)
    package = _BUILDS[options.pipeline](options, Stages(options.out))
    if options.install:
        shutil.copytree(package, WEIGHTS, dirs_exist_ok=True)


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
