"""Two processes on one CPU, started by torchrun, against one."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from tests.families import FAMILIES

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
FIGURES = ("reward_mean", "reward_std", "loss", "grad_norm", "approx_kl", "credit_similarity_start")


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
        port: int = free.getsockname()[1]
    return port


def run(folder: Path, *words: str, processes: int) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command(*words, processes=processes), cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("alone")
    said = run(folder, "train", "embedded_jpeg", *RUN, "--run", "a", processes=1)
    assert said.returncode == 0, said.stderr
    return folder / "a"


def test_two_processes_walk_the_curve_of_one(alone: Path, tmp_path: Path) -> None:
    """The same images bit for bit; gradients are added up in another order, and Adam enlarges the difference."""
    said = run(tmp_path, "train", "embedded_jpeg", *RUN, "run.processes=2", "--run", "b", processes=2)
    assert said.returncode == 0, said.stderr
    assert said.stdout.count("self-check:") == 1, "one process speaks"
    one, two = rows(alone), rows(tmp_path / "b")
    assert two[0]["reward_mean"] == one[0]["reward_mean"] and two[0]["reward_std"] == one[0]["reward_std"]
    for first, second in zip(one, two, strict=True):
        assert second["ratio_max_deviation"] == 0
        assert second["reward_queries"] == first["reward_queries"]
        assert [second[name] for name in FIGURES] == pytest.approx([first[name] for name in FIGURES], rel=1e-3)
    ours, theirs = (load_file(path / "lora/pytorch_lora_weights.safetensors") for path in (alone, tmp_path / "b"))
    for name, value in ours.items():
        assert float((value - theirs[name]).abs().max()) < 1e-2 * float(value.abs().max())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("adapter", "then", "weights"),
    [
        ("lora", "true", "lora/pytorch_lora_weights.safetensors"),
        ("full", "true", "unet/diffusion_pytorch_model.safetensors"),
        ("full", "false", "unet/diffusion_pytorch_model.safetensors"),
    ],
)
def test_weights_that_are_shared_out_are_trained_as_whole_ones(
    adapter: str, then: str, weights: str, tmp_path: Path
) -> None:
    """With averages and a KL, which swap weights; stopped after one epoch and gone on with, shared out or whole."""
    words = [*RUN, f"model.adapter={adapter}", "model.ema=0.5", "train.kl_weight=0.01", "train.learning_rate=1e-3"]
    assert run(tmp_path, "train", "embedded_jpeg", *words, "--run", "a", processes=1).returncode == 0
    shared = [*words, "model.shard=true"]
    said = run(tmp_path, "train", "embedded_jpeg", *shared, "train.epochs=1", "--run", "b", processes=2)
    assert said.returncode == 0, said.stderr
    said = run(tmp_path, "train", "--resume", "--run", "b", "train.epochs=2", f"model.shard={then}", processes=2)
    assert said.returncode == 0, said.stderr
    one, two = rows(tmp_path / "a"), rows(tmp_path / "b")
    for first, second in zip(one, two, strict=True):
        assert second["ratio_max_deviation"] == 0
        names = [*FIGURES, "reference_kl"]
        assert [second[name] for name in names] == pytest.approx([first[name] for name in names], rel=1e-3, abs=1e-9)
    ours, theirs = (load_file(tmp_path / name / weights) for name in "ab")
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert float((value - theirs[name]).abs().max()) < 1e-2 * float(value.abs().max()) + 1e-6


@pytest.mark.parametrize("names", [("sd", "sd3", "flux"), pytest.param(tuple(FAMILIES), marks=pytest.mark.slow)])
def test_families_replay_exactly_with_their_weights_shared_out(names: tuple[str, ...]) -> None:
    """FSDP2 on two processes: the same walks, exact replays, and gradients that add up to those of whole weights."""
    words = [*launcher(2), "tests.families.shared_out", *names]
    said = subprocess.run(words, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert said.returncode == 0, said.stderr
    found = json.loads(said.stdout)
    assert {key.split()[0] for key in found} == set(names)
    for key, figures in found.items():
        assert (figures["deviation"], figures["latents"]) == (0, 0), key
        assert figures["gradient"] < 1e-5, key


@pytest.mark.slow
def test_a_killed_worker_ends_the_job_and_the_run_goes_on_with_one(alone: Path, tmp_path: Path) -> None:
    words = ["train", "embedded_jpeg", *RUN, "train.epochs=40", "--run", "c"]
    job = subprocess.Popen(
        command(*words, processes=2), cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    metrics = tmp_path / "c/metrics.jsonl"
    deadline = time.monotonic() + 120
    while not (metrics.exists() and metrics.read_text().count("\n") >= 2):
        assert time.monotonic() < deadline and job.poll() is None
        time.sleep(0.05)
    children = subprocess.run(["pgrep", "-P", str(job.pid)], capture_output=True, text=True).stdout.split()
    killed = time.monotonic()
    os.kill(int(children[-1]), signal.SIGKILL)
    job.communicate(timeout=60)
    assert job.returncode == 1 and time.monotonic() - killed < 60
    finished = len(rows(tmp_path / "c"))
    said = run(tmp_path, "train", "--resume", "--run", "c", f"train.epochs={finished + 1}", processes=1)
    assert said.returncode == 0, said.stderr
    assert len(rows(tmp_path / "c")) == finished + 1
    for first, second in zip(rows(alone), rows(tmp_path / "c"), strict=False):
        assert second["reward_mean"] == pytest.approx(first["reward_mean"], rel=1e-3)


def test_bad_input_is_told_once(tmp_path: Path) -> None:
    said = run(tmp_path, "train", "embedded_jpeg", "run.processes=3", "--run", "d", processes=2)
    assert said.returncode == 1, "what torchrun makes of a worker's 2"
    assert said.stderr.count("run.processes is 3, but the launcher has started 2") == 1
    assert not (tmp_path / "d").exists()
