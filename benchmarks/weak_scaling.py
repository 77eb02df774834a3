"""Measure weak scaling of the embedded pipeline: twice the images on two processes, one thread each.

    OMP_NUM_THREADS=1 uv run python benchmarks/weak_scaling.py --rounds 5 --run runs/weak_scaling

Each round measures one process (32 images per epoch), two processes under torchrun (64 images per epoch, with the same
micro-batches), and two independent processes, which show what the machine can do at best. Every second round runs in
reverse order. The time of a run is the median over its epochs, without the first one. Prints the ratio of the times for
one process and for two; 1 is perfect. Ignore rounds in which the processes shared a core with other work.
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
    parser.add_argument("--run", type=Path, required=True, help="folder of the runs, which is overwritten")
    options = parser.parse_args()
    setups = {"one": one, "torchrun": torchrun, "independent": independent}
    measured: dict[str, list[float]] = {name: [] for name in setups}
    for number in range(options.rounds):
        folder = options.run / f"round-{number}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for name in list(measured)[:: 1 if number % 2 == 0 else -1]:
            measured[name].append(max(setups[name](folder / name, options.epochs)))
        print(
            f"round {number + 1}: {', '.join(f'{name} {values[-1]:.2f} s' for name, values in measured.items())}",
            flush=True,
        )
    print("\n".join(table(measured)))
    print(f"{machine()}, torch {torch.__version__}; {IMAGES} images per process and epoch")


def one(folder: Path, epochs: int) -> list[float]:
    finish(start(folder, epochs, 1))
    return [seconds(folder)]


def torchrun(folder: Path, epochs: int) -> list[float]:
    finish(start(folder, epochs, 2))
    return [seconds(folder)]


def independent(folder: Path, epochs: int) -> list[float]:
    folders = [folder.with_name(f"{folder.name}-{index}") for index in range(2)]
    for running in [start(each, epochs, 1) for each in folders]:
        finish(running)
    return [seconds(each) for each in folders]


def start(folder: Path, epochs: int, processes: int) -> subprocess.Popen[bytes]:
    """Start training with `IMAGES` images per epoch on each process."""
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
        raise SystemExit(f"{running.args!r} failed: see its .log file")


def seconds(folder: Path) -> float:
    """Median seconds per epoch, without the first."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return statistics.median(epoch_seconds(row) for row in rows[1:])


def table(measured: dict[str, list[float]]) -> list[str]:
    """The efficiency of two processes, and of torchrun relative to independent processes."""
    lines = []
    for name, over, under in (
        ("torchrun / one", "one", "torchrun"),
        ("independent / one", "one", "independent"),
        ("torchrun / independent", "independent", "torchrun"),
    ):
        ratios = [a / b for a, b in zip(measured[over], measured[under], strict=True)]
        lines.append(f"{name:<24} {min(ratios):.2f} {statistics.median(ratios):.2f} {max(ratios):.2f}")
    return ["efficiency               minimum, median, maximum", *lines]


def machine() -> str:
    return f"{platform.machine()}, {os.cpu_count()} cores, one thread per process"


if __name__ == "__main__":
    main()
