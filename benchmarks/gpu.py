"""Measure throughput, memory and utilization on a GPU: SD 1.5, SD 3.5 medium and SDXL with random weights.

    uv run python benchmarks/gpu.py [--json gpu.json]

The setting is 512 pixels (1024 for SDXL if it fits), bfloat16, a LoRA of rank 4, guidance 5 and `--steps` steps per
image. For each model, the script measures the reference loop (one image and one step at a time, as in the authors'
release and TRL), a sweep over batch sizes, and the fastest batch size with gradient checkpointing and with compilation.
Each model runs in a separate process with a share of `--seconds`. A process that exceeds its share is killed, and the
missing measurements are listed.

Throughput is images of `--steps` steps per second, for the rollout with decoding and for the update. MFU (model FLOPs
utilization) is the rate of the denoiser's operations, relative to the rate of bfloat16 products of matrices with 8192
rows on the same GPU. The operations are counted on one forward with guidance. A forward with backward of a LoRA counts
as two forwards. Recomputation by checkpointing, the decoder and the optimizer are not counted.

To test the script without a GPU, run it with `--device cpu --tiny`. The numbers then say nothing about a GPU.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import signal
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from _gpu_model import SIZES, VARIANTS, Result, Task, device_info, measurements, query_seconds
from _throughput import break_even

SECONDS = 450
SHARES = {"sd15": 0.4, "sd35m": 0.5, "sdxl": 1.0}
"""The share of the remaining time for each model."""
SPEEDUP, UTILIZATION = 3.0, 0.4
"""Targets for SD 1.5 on an H100: speed-up over the reference loop, and MFU in training."""


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    started = time.time()
    end = started + options.seconds
    device = list(section(device_info, task_of("", options, end), end))
    if "problem" in device[0]:
        raise SystemExit(f"{options.device}: {device[0]['problem']}")
    report: dict[str, Any] = {"card": device[0], "steps": options.steps, "tiny": options.tiny, "results": []}
    for model in options.only:
        deadline = time.time() + SHARES[model] * (end - time.time())
        for result in section(measurements, task_of(model, options, deadline), deadline):
            report["results"].append(result)
            print(json.dumps(result), flush=True)
    report["seconds"] = round(time.time() - started, 1)
    if options.json is not None:
        options.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print("\n" + "\n".join(table(report)))


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    cuda = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument(
        "--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS), help="variants in addition to eager"
    )
    parser.add_argument("--device", default="cuda" if cuda else None)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="by default bfloat16 on CUDA")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="time limit of all measurements")
    parser.add_argument("--tiny", action="store_true", help="tiny models")
    parser.add_argument("--json", type=Path, help="file for all results")
    options = parser.parse_args(arguments)
    if options.device is None or (options.device.startswith("cuda") and not cuda):
        parser.error("there is no CUDA device; to test the script without one, use --device cpu --tiny")
    options.dtype = options.dtype or ("bfloat16" if options.device.startswith("cuda") else "float32")
    return options


def task_of(model: str, options: argparse.Namespace, deadline: float) -> Task:
    return Task(model, options.device, options.dtype, options.steps, tuple(options.variants), options.tiny, deadline)


def section(work: Callable[[Task], Iterator[Result]], task: Task, deadline: float) -> Iterator[Result]:
    """The results of `work` in a separate process, which is killed at `deadline`."""
    context = multiprocessing.get_context("spawn")
    results, end = context.Pipe(duplex=False)
    worker = context.Process(target=_send_results, args=(work, task, end))
    worker.start()
    end.close()
    about = {"model": task.model, "way": "remaining", "batch": None, "pixels": None}
    try:
        while results.poll(max(0.0, deadline - time.time())):
            yield results.recv()
        yield about | {"problem": "skipped: out of time"}
    except EOFError:
        worker.join()
        if worker.exitcode:
            yield about | {"problem": f"failed with status {worker.exitcode}: see its output above"}
    finally:
        if worker.is_alive():
            with suppress(ProcessLookupError):
                os.killpg(worker.pid or 0, signal.SIGKILL)
            worker.kill()
        worker.join()


def _send_results(work: Callable[[Task], Iterator[Result]], task: Task, results: Connection) -> None:
    os.setpgrp()  # so that killing the group also ends its compiler processes
    for result in work(task):
        results.send(result)


def table(report: dict[str, Any]) -> list[str]:
    """A table of all measurements, followed by what is missing and the targets."""
    device, results = report["card"], report["results"]
    lines = [
        f"{device['device']}, torch {device['torch']}, {device['dtype']} products at {device['tflops']:.3g} TFLOP/s",
        f"images of {report['steps']} steps per second; MFU: share of these TFLOP/s; x: speed-up over reference",
        "",
        f"{'':<24}{'batch':>6}{'rollout/s':>11}{'MFU':>6}{'GB':>7}{'training/s':>12}{'MFU':>6}{'GB':>7}{'x':>7}",
    ]
    for result in results:
        if "training" in result:
            reference = _find(results, result["model"], "reference", 1)
            eager = _find(results, result["model"], "eager", result["batch"])
            lines.append(_row(result, device["tflops"], reference, eager))
        elif "weights" in result:
            size = f"{result['pixels']} px" if result["pixels"] else "tiny"
            lines.append(
                f"{result['model']}, {size}: {result['weights']:,} weights, {result['trained']:,} "
                f"trained, {result['tflop']:.3g} TFLOP per step and image"
            )
    lines += alternated(results)
    problems = [result for result in results if "problem" in result]
    for problem in problems:
        batch = f" at {problem['batch']}" if problem["batch"] else ""
        lines.append(f"{problem['model']}, {problem['way']}{batch}: {problem['problem']}")
    return [*lines, *(["", *targets(report)] if not report["tiny"] else []), *_warning(report)]


def alternated(results: Sequence[Result]) -> list[str]:
    """Speed-ups measured in alternation: median, minimum and maximum over rounds."""
    lines = []
    for result in results:
        for key, other in (("times", "the reference loop"), ("times_eager", "eager")):
            if key in result:
                way, ratios = "eager" if key == "times" else result["way"], result[key]
                spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
                lines.append(f"{result['model']}, {way} at batch {result['batch']}: {spread} times as fast as {other}")
    return lines


def targets(report: dict[str, Any]) -> list[str]:
    """The targets for SD 1.5, and whether they were met."""
    complete = [result for result in report["results"] if "training" in result and result["model"] == "sd15"]
    ours = [result for result in complete if result["way"] != "reference"]
    times = [result for result in report["results"] if "times" in result and result["model"] == "sd15"]
    if not times or not ours:
        return ["SD 1.5: not measured"]
    low, speedup, high = min(times[0]["times"]), statistics.median(times[0]["times"]), max(times[0]["times"])
    share = max(result["training"]["tflops"] for result in ours) / report["card"]["tflops"]
    return [
        f"SD 1.5, eager, batch {times[0]['batch']}: {speedup:.2f} ({low:.2f} to {high:.2f}) times as fast as the "
        f"reference loop (target {SPEEDUP:g}: {_met(speedup >= SPEEDUP)}); "
        f"MFU {share:.0%} in training (target {UTILIZATION:.0%}: {_met(share >= UTILIZATION)}); "
        "the targets are for an H100"
    ]


def _met(target: bool) -> str:
    return "met" if target else "missed"


def _find(results: Sequence[Result], model: str, way: str, batch: int) -> Result | None:
    """The measurement of a model, variant and batch size, if there is one."""
    matches = (result for result in results if (result["model"], result["way"], result["batch"]) == (model, way, batch))
    return next((result for result in matches if "training" in result), None)


def _row(result: Result, rate: float, reference: Result | None, eager: Result | None) -> str:
    cells = "".join(
        f"{result[phase]['samples_per_second']:>{width}.3g}{result[phase]['tflops'] / rate:>6.0%}"
        f"{result[phase]['peak_gb']:>7.1f}"
        for phase, width in (("sampling", 11), ("training", 12))
    )
    times = f"{query_seconds(reference) / query_seconds(result):.2f}" if reference else "-"
    row = f"{result['model']:<8}{result['way']:<16}{result['batch']:>6}{cells}{times:>7}"
    return f"{row}  {compile_summary(result, eager)}" if result["way"] == "compiled" and eager else row


def compile_summary(compiled: Result, eager: Result) -> str:
    """The compile time, and the number of images that recover it at the same batch size."""
    after = break_even(compiled["seconds_warm_up"], query_seconds(eager), query_seconds(compiled))
    recovered = f"recovered after {after:,.0f} images" if math.isfinite(after) else "never recovered"
    return f"{compiled['seconds_warm_up']:.0f} s to compile, {recovered}"


def _warning(report: dict[str, Any]) -> list[str]:
    if report["card"]["memory_gb"] is not None:
        return []
    return ["", "Measured on a CPU: these figures say nothing about a GPU."]


if __name__ == "__main__":
    main()
