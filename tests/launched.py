"""The command line on one process or several, each in a Python of its own."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]

RUN = [
    "sample.steps=4",
    "sample.prompts_per_epoch=2",
    "sample.images_per_prompt=3",
    "train.updates_per_epoch=2",
    "train.microbatch=2",
    "train.epochs=2",
    "run.grid_images=2",
    "model.device=cpu",
]


def command(*words: str, processes: int) -> list[str]:
    if processes == 1:
        return [sys.executable, "-m", "stepcredit", *words]
    return [*launcher(processes), "--", "stepcredit", *words]


def launcher(processes: int) -> list[str]:
    return [
        *(sys.executable, "-m", "torch.distributed.run"),
        *(f"--nproc-per-node={processes}", f"--master-port={free_port()}", "-m"),
    ]


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def run(folder: Path, *words: str, processes: int) -> subprocess.CompletedProcess[str]:
    return finished(command(*words, processes=processes), folder)


def finished(words: list[str], folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """What became of a program with one thread to each process."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
