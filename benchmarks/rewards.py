"""Measure the memory and time of the learned rewards at their published sizes, with random weights.

    PYTHONPATH=. OMP_NUM_THREADS=2 uv run python benchmarks/rewards.py
    PYTHONPATH=. uv run python benchmarks/rewards.py --only pickscore --dtype bfloat16 --device cuda

For each reward, one process writes a checkpoint of the published architecture to a temporary folder (up to 4 GB,
removed afterwards). Another process loads it with the reward's own code and scores images, so its peak memory includes
nothing else. Prints one table: parameters, peak resident memory, wall seconds and CPU seconds to load and per image,
and the range of the scores.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from tests.rewards.vision.checkpoints import (
    BlipShape,
    ClipShape,
    OpenClipShape,
    write_clip,
    write_hps,
    write_imagereward,
    write_predictor,
)
from torch import nn

from stepcredit.config import RewardSection
from stepcredit.rewards import build_reward

VIT_L = ClipShape(1024, 24, 16, 768, 12, 12, embedding=768, image_size=224)
VIT_H = ClipShape(1280, 32, 16, 1024, 24, 16, embedding=1024, image_size=224, activation="gelu")
BLIP_L = BlipShape(1024, 24, 768, 12, vocabulary=30524, positions=512, image_size=224)
OPEN_VIT_H = OpenClipShape(1280, 32, 1024, 24, embedding=1024, image_size=224)
NAMES = ("aesthetic", "clipscore", "hpsv2", "hpsv2.1", "imagereward", "pickscore")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=NAMES, help="one reward instead of all")
    parser.add_argument("--images", type=int, default=4, help="512 x 512 images to score")
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--step", choices=["write", "run"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step == "write":
        write(options.only, options.folder)
    elif options.step == "run":
        print(json.dumps(run(options)))
    else:
        print_table(options, [options.only] if options.only else list(NAMES))


def print_table(options: argparse.Namespace, names: list[str]) -> None:
    print(f"{options.dtype} on {options.device}, {options.images} images of 512 x 512, torch {torch.__version__}")
    head = ("reward", "size", "peak GB", "load s", "(CPU)", "s/image", "(CPU)", "scores")
    print("{:<12} {:>6} {:>8} {:>7} {:>6} {:>8} {:>6} {:>18}".format(*head))
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            run_step("write", name, folder, options)
            row = json.loads(run_step("run", name, folder, options))
        size, spread = f"{row['parameters'] / 1e6:.0f}M", f"{row['lowest']:.3f} to {row['highest']:.3f}"
        load, each = (f"{row[key]:.1f} {row[f'{key}_cpu']:>6.1f}" for key in ("load", "image"))
        print(f"{name:<12} {size:>6} {row['peak'] / 1e9:>8.2f} {load:>14} {each:>15} {spread:>18}", flush=True)


def run_step(what: str, name: str, folder: str, options: argparse.Namespace) -> str:
    numbers = ["--images", str(options.images), "--batch-size", str(options.batch_size)]
    target = ["--dtype", options.dtype, "--device", options.device]
    command = [sys.executable, __file__, "--step", what, "--only", name, "--folder", folder, *numbers, *target]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1]


def write(name: str, folder: Path) -> None:
    if name == "aesthetic":
        write_clip(folder, VIT_L)
        write_predictor(folder / "aesthetic-model.pth", VIT_L.embedding)
    elif name in ("clipscore", "pickscore"):
        write_clip(folder, VIT_L if name == "clipscore" else VIT_H)
    elif name == "imagereward":
        write_imagereward(folder, BLIP_L)
    else:
        write_hps(folder / ("HPS_v2_compressed.pt" if name == "hpsv2" else "HPS_v2.1_compressed.pt"), OPEN_VIT_H)
    print("written")


def run(options: argparse.Namespace) -> dict[str, float]:
    settings: dict[str, Any] = {"path": str(options.folder), "batch_size": options.batch_size}
    if options.only == "aesthetic":
        settings["predictor"] = str(options.folder)
    build_reward(RewardSection(name="warmth"))  # import torch and the libraries before timing
    section = RewardSection(name=options.only, options={**settings, "dtype": options.dtype, "device": options.device})
    start, start_cpu = time.perf_counter(), time.process_time()
    reward = build_reward(section)
    load, load_cpu = time.perf_counter() - start, time.process_time() - start_cpu
    images = torch.rand(options.images, 3, 512, 512, generator=torch.Generator().manual_seed(0))
    prompts = ["a cat", "a painting of a fox by the sea", "two dogs", "a red bus"] * options.images
    reward(images[:1], prompts[:1], [{}])
    start, start_cpu = time.perf_counter(), time.process_time()
    scores = reward(images, prompts[: options.images], [{}] * options.images)
    return {
        "parameters": sum(weight.numel() for module in modules(reward.reward) for weight in module.parameters()),
        "load": load,
        "load_cpu": load_cpu,
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "image": (time.perf_counter() - start) / options.images,
        "image_cpu": (time.process_time() - start_cpu) / options.images,
        "lowest": scores.min().item(),
        "highest": scores.max().item(),
    }


def modules(part: object) -> Iterator[nn.Module]:
    """The networks that a reward holds, directly or through an object of this package."""
    for value in vars(part).values():
        if isinstance(value, nn.Module):
            yield value
        elif type(value).__module__.startswith("stepcredit.") and hasattr(value, "__dict__"):
            yield from modules(value)


if __name__ == "__main__":
    main()
