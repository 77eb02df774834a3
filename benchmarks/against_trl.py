"""Compare the cost of sampling and training with TRL 0.23.1's DDPOTrainer on identical work.

    OMP_NUM_THREADS=1 uv run python benchmarks/against_trl.py --pairs 5

The task is DDPO on JPEG compressibility with a tiny Stable Diffusion with random weights (a UNet of 1.8M weights, 8x8
latents, 77 tokens, 32x32 images): 16 images x 50 DDIM steps per epoch, guidance 5 in sampling and training, a LoRA of
rank 4, one inner epoch, 4 updates, float32, one thread. The systems run in turn in separate processes. They have the
same weights, initial LoRA, prompts, noise of each image and split of images into updates.

TRL runs in its own environment (`--venv`), which is created once from the package index. It has the same versions of
torch, numpy, pillow and safetensors as this environment, and older versions of the other libraries. The first epoch is
a warm-up: its rewards and gradient norms are compared, and our replay check runs, but it is not timed. With
`--epochs 1`, it is timed and the replay check is off.

Differences from TRL's defaults: no mixed precision, no progress bar, no image hook, no checkpoint; noise, LoRA and
shuffle are given. By default, TRL samples and trains one image at a time; change this with `--trl-sample-batch` and
`--trl-train-batch`. TRL shuffles the steps of each image, which changes the gradient only by rounding.
Differences from our defaults: DDPO instead of CoCA (uniform credit without a second standardization, batch advantages),
TRL's optimizer settings and clip range, no checkpoint, no grid.

Prints CPU seconds and wall seconds per epoch, the share of this core's float32 matrix rate that the UNet's operations
reach, peak resident memory, and the ratios of each pair. Exits with status 1 if rewards or gradient norms of the first
epoch differ by more than rounding. Linux only.
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
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import _tiny_sd
import torch
from _comparison import OURS, THEIRS, Pair, agreement_table, agrees, cost_table, ratio_table, ratios, summary
from safetensors.torch import save_file

from stepcredit.algorithms.minibatch import image_groups
from stepcredit.families import ATTENTION
from stepcredit.policy.adapters import LoraAdapter
from stepcredit.prompts import load_prompts
from stepcredit.utils.logging import quiet_libraries
from stepcredit.utils.seeds import Stream, epoch_generator, sample_seeds

HERE = Path(__file__).parent
PINS = (
    "trl==0.23.1",
    "transformers==4.57.6",
    "diffusers==0.35.2",
    "accelerate==1.10.1",
    "peft==0.17.1",
    *(f"{name}=={version(name).partition('+')[0]}" for name in ("torch", "numpy", "pillow", "safetensors")),
)
WORK = {"steps": 50, "guidance": 5.0, "lora_rank": 4, "seed": 0}
OPTIMIZER = {"learning_rate": 3e-4, "weight_decay": 1e-4, "max_grad_norm": 1.0, "clip_range": 1e-4}  # TRL's defaults
RATE_SIZE = 1024


def main() -> None:
    options = parse()
    quiet_libraries()
    torch.set_num_threads(1)
    trl_python = environment(options.venv)
    with tempfile.TemporaryDirectory() as folder:
        job = prepare(Path(folder), options)
        pairs = [pair(Path(folder), job, number, trl_python) for number in range(options.pairs)]
        gflop = work_gflop(job)
    tables = [
        setting(options, gflop),
        agreement_table(pairs[0], options.updates),
        cost_table(pairs, gflop, options.images),
        ratio_table(ratios(pairs)),
    ]
    print("\n" + "\n\n".join("\n".join(table) for table in tables))
    if not all(agrees(pair[OURS], pair[THEIRS], options.updates) for pair in pairs):
        raise SystemExit("rewards or gradient norms of the first epoch differ: the systems did not do the same work")


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=positive, default=5)
    parser.add_argument(
        "--epochs",
        type=positive,
        default=2,
        help="epochs of each run; the first is not timed unless it is the only one",
    )
    parser.add_argument("--images", type=positive, default=16)
    parser.add_argument("--updates", type=positive, default=4)
    parser.add_argument("--sample-batch", type=positive, help="images that stepcredit samples at a time")
    parser.add_argument("--microbatch", type=positive, help="images that stepcredit trains at a time")
    parser.add_argument("--trl-sample-batch", type=positive, default=1, help="images that TRL samples at a time")
    parser.add_argument("--trl-train-batch", type=positive, default=1, help="images that TRL trains at a time")
    parser.add_argument("--venv", type=Path, default=HERE / ".venv", help="environment of TRL, created if missing")
    options = parser.parse_args(arguments)
    if options.images % (options.updates * options.trl_train_batch):
        parser.error(f"--images {options.images} must be a multiple of --updates times --trl-train-batch")
    if options.microbatch and options.microbatch > options.images:
        parser.error(f"--microbatch {options.microbatch} must not exceed --images")
    if options.images % options.trl_sample_batch:
        parser.error(f"--images {options.images} must be a multiple of --trl-sample-batch")
    return options


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return number


def environment(folder: Path) -> Path:
    """The Python of the environment that holds PINS. Created again if it does not hold exactly these."""
    stamp, python = folder / "pins.txt", folder / "bin" / "python"
    pins = "\n".join(PINS)
    if stamp.is_file() and stamp.read_text(encoding="utf-8") == pins and python.exists():
        return python.absolute()
    if folder.exists() and not (folder / "pyvenv.cfg").is_file():
        raise SystemExit(f"{folder} is not a virtual environment: give --venv another folder")
    print(f"installing {' '.join(PINS)} into {folder}", flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    uv = shutil.which("uv")
    subprocess.run([uv, "venv", folder] if uv else [sys.executable, "-m", "venv", folder], check=True)
    install = [uv, "pip", "install", "--python", python] if uv else [python, "-m", "pip", "install"]
    subprocess.run([*install, "--quiet", *PINS], check=True)
    stamp.write_text(pins, encoding="utf-8")
    return python.absolute()


def prepare(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Write the pipeline, the LoRA and the prompts; returns the job of both runners."""
    pipeline, lora, prompts = folder / "pipeline", folder / "lora.safetensors", folder / "prompts.txt"
    _tiny_sd.save(pipeline)
    save_file(adapted(WORK["lora_rank"]).state_dict(), lora)
    texts = [prompt.text for prompt in load_prompts("shapes")[: options.images]]
    if len(texts) < options.images:
        raise SystemExit(f"--images can be at most {len(texts)}")
    prompts.write_text("\n".join(texts), encoding="utf-8")
    seed, count = WORK["seed"], options.images
    settings = {name: value for name, value in vars(options).items() if name not in ("venv", "pairs", "images")}
    job = {
        **WORK,
        **OPTIMIZER,
        **settings,
        "folder": str(pipeline),
        "lora": str(lora),
        "prompts": texts,
        "prompts_file": str(prompts),
        "seeds": [sample_seeds(seed, Stream.TRAINING, epoch * count, count) for epoch in range(options.epochs)],
        "shuffles": [shuffle(seed, epoch, count, options.updates) for epoch in range(options.epochs)],
    }
    (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")
    return job


def adapted(rank: int) -> LoraAdapter:
    """A new LoRA on a new pipeline."""
    torch.manual_seed(0)
    pipeline = _tiny_sd.build()
    pipeline.unet.requires_grad_(False)
    return LoraAdapter(pipeline, rank, None, ATTENTION, seed=0)


def shuffle(seed: int, epoch: int, count: int, updates: int) -> list[int]:
    """Our split of an epoch's images into updates, as one list."""
    groups = image_groups(count, updates, epoch_generator(seed, Stream.SHUFFLE, epoch))
    return [row for group in groups for row in group.tolist()]


def work_gflop(job: dict[str, Any]) -> dict[str, float]:
    """The GFLOP of the UNet: of one row, and of an epoch of sampling and of training, with two rows per step."""
    forward, both = _tiny_sd.count_gflop(adapted(job["lora_rank"])._denoiser)
    rows = 2 * len(job["prompts"]) * job["steps"]
    return {"row": forward, "sampling": rows * forward, "training": rows * both}


def pair(folder: Path, job: dict[str, Any], number: int, trl_python: Path) -> Pair:
    """Run both systems, in alternating order, and measure the matrix rate before and after each."""
    runners = {OURS: (sys.executable, "_stepcredit_runner.py"), THEIRS: (trl_python, "_trl_runner.py")}
    systems = (OURS, THEIRS) if number % 2 == 0 else (THEIRS, OURS)
    reports = {}
    for system in systems:
        before = matrix_rate()
        report = folder / f"{system}-{number}.json"
        python, script = runners[system]
        finished = subprocess.run(
            [python, HERE / script, folder / "job.json", report],
            env=os.environ | dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1") | {"HF_HUB_OFFLINE": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        if finished.returncode:
            raise SystemExit(f"{system} failed:\n{finished.stdout[-2000:]}{finished.stderr[-4000:]}")
        reports[system] = json.loads(report.read_text(encoding="utf-8"))
        reports[system]["rate"] = statistics.mean((before, matrix_rate()))
        print(f"pair {number + 1}, {system}: {summary(reports[system])}", flush=True)
    return reports


def matrix_rate(seconds: float = 0.5) -> float:
    """GFLOP per CPU-second of float32 products of square matrices on one thread."""
    left, right = torch.randn(2, RATE_SIZE, RATE_SIZE)
    out = left @ right
    started, products = time.process_time(), 0
    while (spent := time.process_time() - started) < seconds:
        torch.mm(left, right, out=out)
        products += 1
    return 2 * RATE_SIZE**3 * products / spent / 1e9


def setting(options: argparse.Namespace, gflop: dict[str, float]) -> list[str]:
    """The machine, the versions and the work."""
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    ours = " ".join(f"{name}=={version(name)}" for name in ("torch", "transformers", "diffusers", "accelerate", "peft"))
    return [
        f"{platform.machine()}, {os.cpu_count()} cores, load average {load}, one thread, float32",
        f"stepcredit with {ours}",
        f"TRL with {' '.join(PINS)}",
        f"{options.images} images x {WORK['steps']} steps, guidance {WORK['guidance']:g}, {options.updates} updates",
        f"batch sizes: {options.sample_batch or 'default'} sampled, {options.microbatch or 'default'} trained; "
        f"TRL's: {options.trl_sample_batch} and {options.trl_train_batch}",
        f"one forward of the UNet: {gflop['row']:.4f} GFLOP per row; per epoch: {gflop['sampling']:.0f} of sampling, "
        f"{gflop['training']:.0f} of training",
    ]


if __name__ == "__main__":
    main()
