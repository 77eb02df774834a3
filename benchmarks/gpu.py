"""Throughput, memory and utilisation on a GPU: SD 1.5, SD 3.5 medium and SDXL in full size, with random weights.

    uv run python benchmarks/gpu.py [--json gpu.json]

512 pixels (1024 for SDXL if it fits), bfloat16, a LoRA of rank 4, guidance 5, `--steps` steps of every image. Of every
model: the reference-style loop, one image at one step at a time, which is how the authors' release and TRL sample and
train; the micro-batch sweep, sampled and trained so many images at a time; the fastest of them with gradient
checkpointing, and compiled. Each model is a process of its own with a share of `--seconds`; one that runs over is
ended, and what was left out is said.

Samples are images of `--steps` steps a second: of the rollout, which decodes them, and of the update. MFU, utilisation,
is the denoiser's operations against the rate of bfloat16 matrix products of 8192 rows, measured on the same card. They
are counted on one forward of both rows of the guidance; a LoRA's forward with its backward counts as two of them. What
checkpointing computes again, the decoder and the optimizer count as nothing.

On another device: --device cpu --tiny runs all of it in small, to see that it works; its figures mean nothing.
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
from _gpu_model import SIZES, WAYS, Result, Task, card, measurements, query_seconds
from _throughput import break_even

SECONDS = 450
SHARES = {"sd15": 0.4, "sd35m": 0.5, "sdxl": 1.0}
"""Of the time that is left when a model's turn comes."""
FASTER, UTILISATION = 3.0, 0.4
"""What is aimed at for SD 1.5 on an H100: times the reference-style loop, and of the card's rate in training."""


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    started = time.time()
    end = started + options.seconds
    described = list(section(card, task_of("", options, end), end))
    if "problem" in described[0]:
        raise SystemExit(f"{options.device}: {described[0]['problem']}")
    report: dict[str, Any] = {"card": described[0], "steps": options.steps, "tiny": options.tiny, "results": []}
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
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS), help="eager is always among them")
    parser.add_argument("--device", default="cuda" if cuda else None)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="by default bfloat16 on CUDA")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="for everything")
    parser.add_argument("--tiny", action="store_true", help="tiny models")
    parser.add_argument("--json", type=Path, help="file for all results")
    options = parser.parse_args(arguments)
    if options.device is None or (options.device.startswith("cuda") and not cuda):
        parser.error("there is no CUDA device, and so no figure; to see that the script works: --device cpu --tiny")
    options.dtype = options.dtype or ("bfloat16" if options.device.startswith("cuda") else "float32")
    return options


def task_of(model: str, options: argparse.Namespace, deadline: float) -> Task:
    return Task(model, options.device, options.dtype, options.steps, tuple(options.ways), options.tiny, deadline)


def section(work: Callable[[Task], Iterator[Result]], task: Task, deadline: float) -> Iterator[Result]:
    """The results of `work` in a process of its own, which is ended at `deadline`."""
    context = multiprocessing.get_context("spawn")
    results, end = context.Pipe(duplex=False)
    worker = context.Process(target=_worked, args=(work, task, end))
    worker.start()
    end.close()
    about = {"model": task.model, "way": "all that is missing", "batch": None, "pixels": None}
    try:
        while results.poll(max(0.0, deadline - time.time())):
            yield results.recv()
        yield about | {"problem": "skipped: out of time"}
    except EOFError:
        worker.join()
        if worker.exitcode:
            yield about | {"problem": f"failed with status {worker.exitcode}, see above"}
    finally:
        if worker.is_alive():
            with suppress(ProcessLookupError):
                os.killpg(worker.pid or 0, signal.SIGKILL)
            worker.kill()
        worker.join()


def _worked(work: Callable[[Task], Iterator[Result]], task: Task, results: Connection) -> None:
    os.setpgrp()  # so that what compiles for it ends with it
    for result in work(task):
        results.send(result)


def table(report: dict[str, Any]) -> list[str]:
    """What was found, in short: a row a measurement, what was left out, and the targets."""
    about, results = report["card"], report["results"]
    lines = [
        f"{about['device']}, torch {about['torch']}, {about['dtype']} products at {about['tflops']:.3g} TFLOP/s",
        f"samples of {report['steps']} steps a second; MFU: of those TFLOP/s; x: times the reference loop, a query",
        "",
        f"{'':<24}{'batch':>6}{'rollout/s':>11}{'MFU':>6}{'GB':>7}{'training/s':>12}{'MFU':>6}{'GB':>7}{'x':>7}",
    ]
    for result in results:
        if "training" in result:
            reference = _of(results, result["model"], "reference", 1)
            eager = _of(results, result["model"], "eager", result["batch"])
            lines.append(_row(result, about["tflops"], reference, eager))
        elif "weights" in result:
            size = f"{result['pixels']} px" if result["pixels"] else "tiny"
            lines.append(
                f"{result['model']}, {size}: {result['weights']:,} weights, {result['trained']:,} "
                f"trained, {result['tflop']:.3g} TFLOP a step of an image"
            )
    lines += in_turn(results)
    problems = [result for result in results if "problem" in result]
    for problem in problems:
        batch = f" at {problem['batch']}" if problem["batch"] else ""
        lines.append(f"{problem['model']}, {problem['way']}{batch}: {problem['problem']}")
    return [*lines, *(["", *targets(report)] if not report["tiny"] else []), *_warning(report)]


def in_turn(results: Sequence[Result]) -> list[str]:
    """What was compared in turn: median, minimum and maximum of some rounds."""
    lines = []
    for result in results:
        for key, other in (("times", "the reference loop"), ("times_eager", "eager")):
            if key in result:
                way, times = "eager" if key == "times" else result["way"], result[key]
                spread = f"{statistics.median(times):.2f} ({min(times):.2f} to {max(times):.2f})"
                lines.append(f"{result['model']}, {way} at {result['batch']}, in turn: {spread} times {other}, a query")
    return lines


def targets(report: dict[str, Any]) -> list[str]:
    """What is aimed at for SD 1.5, and whether it was reached."""
    whole = [result for result in report["results"] if "training" in result and result["model"] == "sd15"]
    ours = [result for result in whole if result["way"] != "reference"]
    times = [result for result in report["results"] if "times" in result and result["model"] == "sd15"]
    if not times or not ours:
        return ["SD 1.5: not measured"]
    low, faster, high = min(times[0]["times"]), statistics.median(times[0]["times"]), max(times[0]["times"])
    share = max(result["training"]["tflops"] for result in ours) / report["card"]["tflops"]
    return [
        f"SD 1.5, eager, {times[0]['batch']} images, in turn: {faster:.2f} ({low:.2f} to "
        f"{high:.2f}) times the reference-style loop a query (target {FASTER:g}: {_reached(faster >= FASTER)}); "
        f"{share:.0%} of the card's rate in training (target {UTILISATION:.0%}: {_reached(share >= UTILISATION)}); "
        "the targets are for an H100"
    ]


def _reached(target: bool) -> str:
    return "met" if target else "missed"


def _of(results: Sequence[Result], model: str, way: str, batch: int) -> Result | None:
    """The measurement of a model in some way at some batch."""
    found = (result for result in results if (result["model"], result["way"], result["batch"]) == (model, way, batch))
    return next((result for result in found if "training" in result), None)


def _row(result: Result, rate: float, reference: Result | None, eager: Result | None) -> str:
    cells = "".join(
        f"{result[phase]['samples_per_second']:>{width}.3g}{result[phase]['tflops'] / rate:>6.0%}"
        f"{result[phase]['peak_gb']:>7.1f}"
        for phase, width in (("sampling", 11), ("training", 12))
    )
    times = f"{query_seconds(reference) / query_seconds(result):.2f}" if reference else "-"
    row = f"{result['model']:<8}{result['way']:<16}{result['batch']:>6}{cells}{times:>7}"
    return f"{row}  {won_back(result, eager)}" if result["way"] == "compiled" and eager else row


def won_back(compiled: Result, eager: Result) -> str:
    """After how many samples the seconds of compiling are won back, against not doing so at the same batch."""
    after = break_even(compiled["seconds_warm_up"], query_seconds(eager), query_seconds(compiled))
    won = f"won back after {after:,.0f} samples" if math.isfinite(after) else "never won back"
    return f"{compiled['seconds_warm_up']:.0f} s to compile, {won}"


def _warning(report: dict[str, Any]) -> list[str]:
    if report["card"]["memory_gb"] is not None:
        return []
    return ["", "This was a CPU: no GPU figure exists yet, and these say nothing about one."]


if __name__ == "__main__":
    main()
