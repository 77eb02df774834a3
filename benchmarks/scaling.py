"""Measure how the cost of a reward query grows with batch size, steps, resolution, LoRA rank and processes.

    OMP_NUM_THREADS=1 uv run python benchmarks/scaling.py --write docs --note "a shared machine"

The work is one rollout with decoding and one LoRA update over all images and steps of the tiny Stable Diffusion of
`_tiny_sd.py` (a UNet of 1.8M random weights), with guidance 5, in float32 on one thread. No reward is computed.

Each measurement runs in a separate process, after a warm-up of two steps. The points of a law are measured in turn,
round after round, so that other work on the machine affects all of them. A law is the line a + b x through the medians
with the smallest relative error. `--write FOLDER` writes FOLDER/scaling.md and FOLDER/images/scaling.svg.
Linux only.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import platform
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from pathlib import Path

import _tiny_sd
import torch
from _measured import peak_resident_bytes
from _scaling_laws import LAWS, QUICK, Cost, Law, Measured, Point
from _scaling_page import chart, page, tables
from _throughput import Seconds, configuration, rollout, square, timed, update

from stepcredit.policy.loading import make_policy
from stepcredit.utils.logging import quiet_libraries

PIXELS_PER_LATENT = 4
BARRIER_TIMEOUT = 600.0
PRELOADED = [
    "stepcredit.policy.loading",
    "stepcredit.training.update",
    "diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion",
    "torch.utils.flop_counter",
]
"""Modules that are slow to import."""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="measure two small points of each law once, as a test")
    parser.add_argument("--only", nargs="+", choices=[law.name for law in LAWS])
    parser.add_argument("--write", type=Path, metavar="FOLDER", help="folder for the page and images/")
    parser.add_argument("--note", default="", help="note about the machine")
    options = parser.parse_args(arguments)
    laws = [law for law in (QUICK if options.quick else LAWS) if options.only is None or law.name in options.only]
    measured = {law.name: measure_law(law, 1 if options.quick else options.rounds) for law in laws}
    setting = f"{machine()}{options.note and f', {options.note}'}; {rounds_of(measured)} rounds"
    print("\n".join(tables(laws, measured)) + f"\n\n{setting}")
    if options.write is not None:
        (options.write / "images").mkdir(parents=True, exist_ok=True)
        (options.write / "images" / "scaling.svg").write_text(chart(laws, measured), encoding="utf-8")
        (options.write / "scaling.md").write_text(page(laws, measured, setting), encoding="utf-8")


def measure_law(law: Law, rounds: int) -> list[list[Cost]]:
    """The costs of each point of a law, one per round. Every second round runs in reverse order."""
    points = law.points()
    costs: list[list[Cost]] = [[] for _ in points]
    for number in range(rounds):
        for index in range(len(points))[:: 1 if number % 2 == 0 else -1]:
            costs[index].append(cost(points[index], run_processes(points[index])))
            print(f"round {number + 1}, {law.name} {law.values[index]}: {costs[index][-1]}", flush=True)
    return costs


@dataclass(frozen=True)
class Report:
    """The measurements of one process."""

    sampling: Seconds
    training: Seconds
    peak_bytes: int


def cost(point: Point, reports: Sequence[Report]) -> Cost:
    """The cost per query of all processes: CPU time is summed, and wall time is that of the slowest."""
    queries = point.images * len(reports)

    def per_query(phase: str) -> Seconds:
        seconds = [getattr(report, phase) for report in reports]
        wall, cpu = max(each.wall for each in seconds), sum(each.cpu for each in seconds)
        return Seconds(1000 * wall / queries, 1000 * cpu / queries)

    return Cost(per_query("sampling"), per_query("training"), max(report.peak_bytes for report in reports) / 1e6)


def run_processes(point: Point) -> list[Report]:
    """The reports of `point.processes` new processes, forked from a server that has only imported libraries."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    barrier = context.Barrier(point.processes)
    workers, ends = [], []
    for _ in range(point.processes):
        end, other = context.Pipe(duplex=False)
        workers.append(context.Process(target=work, args=(point, barrier, other)))
        workers[-1].start()
        other.close()
        ends.append(end)
    try:
        return [end.recv() for end in ends]
    except EOFError:
        raise SystemExit("a process of the benchmark failed: see its traceback above") from None
    finally:
        for worker in workers:
            worker.join()


def work(point: Point, barrier: Barrier, report: Connection) -> None:
    """The main function of one process of `run_processes`."""
    torch.set_num_threads(1)
    report.send(measure(point, barrier))


def measure(point: Point, barrier: Barrier) -> Report:
    """Build the model, warm up, and do the work of a point once. All processes start each phase together."""
    quiet_libraries()
    torch.manual_seed(0)
    config = configuration(
        point.images,
        point.steps,
        square(PIXELS_PER_LATENT * point.latent),
        point.batch,
        lora_rank=point.rank,
        device="cpu",
    )
    policy = make_policy(_tiny_sd.build(), config)
    short = config.model_copy(update={"sample": config.sample.model_copy(update={"steps": min(2, point.steps)})})
    update(policy, short, rollout(policy, short))
    device = torch.device("cpu")
    barrier.wait(BARRIER_TIMEOUT)
    trajectory, sampling = timed(device, lambda: rollout(policy, config))
    barrier.wait(BARRIER_TIMEOUT)
    _, training = timed(device, lambda: update(policy, config, trajectory))
    return Report(sampling, training, peak_resident_bytes())


def rounds_of(measured: Measured) -> int:
    return max(len(costs) for law in measured.values() for costs in law)


def machine() -> str:
    load = statistics.mean(os.getloadavg())
    return (
        f"{platform.machine()}, {os.cpu_count()} cores, one thread per process, float32, torch {torch.__version__}, "
        f"load average {load:.1f}"
    )


if __name__ == "__main__":
    main()
