"""The command line on one process or several, each in a Python of its own."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]

TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]
ACCELERATE = [
    *(sys.executable, "-m", "accelerate.commands.launch"),
    *("--mixed_precision=no", "--dynamo_backend=no"),
]
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
    return [*TORCHRUN, f"--nproc-per-node={processes}", f"--master-port={free_port()}", "-m"]


def accelerate(processes: int) -> list[str]:
    """`--multi_gpu` says that there are several processes; they compute on the CPU where a run asks for it."""
    return [
        *ACCELERATE,
        "--multi_gpu",
        f"--num_processes={processes}",
        "--num_machines=1",
        "--main_process_port=0",
        "-m",
    ]


def machines(by: str) -> list[list[str]]:
    """What is started on each of two machines, one process each, both of which are this one."""
    place = f"127.0.0.1:{free_port()}"
    if by == "torchrun":
        words = [*TORCHRUN, "--nnodes=2", "--nproc-per-node=1", "--rdzv-backend=c10d", f"--rdzv-endpoint={place}"]
        return [[*words, "-m", "--"]] * 2
    address, port = place.split(":")
    words = [*ACCELERATE, "--multi_gpu", "--num_machines=2", "--num_processes=2"]
    words += [f"--main_process_ip={address}", f"--main_process_port={port}"]
    return [[*words, f"--machine_rank={rank}", "-m"] for rank in range(2)]


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


def all_finished(commands: list[list[str]], folder: Path) -> list[tuple[int, str]]:
    """Exit codes and prints of programs that run at once."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    jobs = [
        subprocess.Popen(
            words, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        for words in commands
    ]
    said = [job.communicate(timeout=300)[0] for job in jobs]
    return [(job.returncode, text) for job, text in zip(jobs, said, strict=True)]


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
