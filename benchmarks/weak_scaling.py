"""Weak scaling: twice the images on twice the processes, on the embedded pipeline, one thread each.

    OMP_NUM_THREADS=1 uv run python benchmarks/weak_scaling.py --rounds 5 --run runs/weak_scaling

Each round trains on one process (32 images an epoch), on two joined by torchrun (64 images, 32 each, with the same
micro-batches), and on two that know nothing of each other, which is what the machine can give. Every second
round goes backwards. Of each run the seconds of its epochs count, the first left out, as the median.
Prints one process's seconds over two processes' for each round: 1 is perfect. A round whose processes had to share a
core with other work says little.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

import torch

from stepcredit.runs.timing import epoch_seconds

IMAGES, PER_PROMPT = 32, 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--run", type=Path, required=True, help="folder of the runs, which are made anew")
    options = parser.parse_args()
    ways = {"one": one, "joined": joined, "apart": apart}
    measured: dict[str, list[float]] = {way: [] for way in ways}
    for number in range(options.rounds):
        folder = options.run / f"round-{number}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for way in list(measured)[:: 1 if number % 2 == 0 else -1]:
            measured[way].append(max(ways[way](folder / way, options.epochs)))
        print(f"round {number + 1}: {', '.join(f'{way} {measured[way][-1]:.2f} s' for way in measured)}", flush=True)
    print("\n".join(table(measured)))
    print(f"{machine()}, torch {torch.__version__}; {IMAGES} images a process and epoch")


def one(folder: Path, epochs: int) -> list[float]:
    finish(start(folder, epochs, 1))
    return [seconds(folder)]


def joined(folder: Path, epochs: int) -> list[float]:
    finish(start(folder, epochs, 2))
    return [seconds(folder)]


def apart(folder: Path, epochs: int) -> list[float]:
    folders = [folder.with_name(f"{folder.name}-{index}") for index in range(2)]
    for running in [start(each, epochs, 1) for each in folders]:
        finish(running)
    return [seconds(each) for each in folders]


def start(folder: Path, epochs: int, processes: int) -> subprocess.Popen[bytes]:
    """Training with `IMAGES` images on each of so many processes."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", "-m", "--"]
    words = [
        "train",
        "embedded_jpeg",
        f"sample.prompts_per_epoch={processes * IMAGES // PER_PROMPT}",
        f"sample.images_per_prompt={PER_PROMPT}",
        f"train.epochs={epochs}",
        "train.updates_per_epoch=2",
        "train.microbatch=16",
        f"run.processes={processes}",
        "model.device=cpu",
        "--run",
        str(folder),
    ]
    command = [sys.executable, *(launcher if processes > 1 else ["-m"]), "stepcredit", *words]
    with folder.with_suffix(".log").open("wb") as log:
        return subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )


def finish(running: subprocess.Popen[bytes]) -> None:
    if running.wait() != 0:
        raise SystemExit(f"failed: {running.args!r}")


def seconds(folder: Path) -> float:
    """Median over epochs but the first."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return statistics.median(epoch_seconds(row) for row in rows[1:])


def table(measured: dict[str, list[float]]) -> list[str]:
    """Efficiency of two processes, by round, and of joined ones against what the machine gives."""
    lines = []
    for name, over, under in (
        ("two joined, of one", "one", "joined"),
        ("two apart, of one", "one", "apart"),
        ("joined, of apart", "apart", "joined"),
    ):
        ratios = [a / b for a, b in zip(measured[over], measured[under], strict=True)]
        lines.append(f"{name:<20} {min(ratios):.2f} {statistics.median(ratios):.2f} {max(ratios):.2f}")
    return ["efficiency           minimum, median, maximum", *lines]


def machine() -> str:
    return f"{platform.machine()}, {os.cpu_count()} cores, one thread a process"


if __name__ == "__main__":
    main()
