"""How the cost of a reward query grows: with batch, steps, resolution, LoRA rank and processes. A table and a plot.

    OMP_NUM_THREADS=1 uv run python benchmarks/scaling.py --write docs --note "a shared machine"

The tiny Stable Diffusion of `_tiny_sd.py` (UNet of 1.8M weights, random) is sampled and trained with guidance 5,
float32, one thread: a rollout with decoding, and one update of its LoRA over all images and steps. There is no reward.

Every measurement is a process of its own, which first does two steps to warm up. The points of a law are measured in
turn, round after round, so that a slow minute of the machine falls on all of them. A law is the line a + b x through
the medians with the least relative error. `--write FOLDER` writes FOLDER/scaling.md and FOLDER/images/scaling.svg.
Linux only.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import platform
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from pathlib import Path

import _tiny_sd
import torch
from _alike import peak_resident_bytes
from _scaling_page import chart, page, tables
from _throughput import Seconds, configuration, rollout, square, timed, update

from stepcredit.policy.loading import make_policy
from stepcredit.utils.logging import quiet_libraries

PIXELS = 4  # of an image along each side of a latent
PATIENCE = 600.0
PRELOADED = [
    "stepcredit.policy.loading",
    "stepcredit.training.update",
    "diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion",
    "torch.utils.flop_counter",
]
"""What every process would spend seconds on importing."""


@dataclass(frozen=True)
class Point:
    """The work of one measurement: `processes` processes that each do all of it at the same time."""

    images: int = 8
    batch: int = 8
    steps: int = 10
    latent: int = _tiny_sd.LATENT
    rank: int = 4
    processes: int = 1


@dataclass(frozen=True)
class Cost:
    """Of one measurement, per query, in milliseconds; `peak` is the resident memory of the largest process, in MB."""

    sampling: Seconds
    training: Seconds
    peak: float


@dataclass(frozen=True)
class Law:
    """Points that differ in one thing, and what their cost should be linear in.

    Attributes:
        name: what differs, as the page's heading.
        field: the field of `Point` that takes `values`.
        against, formula: x of the line a + b x, and how it is written.
        clock: the seconds the line is for: those of the CPU, or where processes share the machine those of the clock.
        because: why the line should hold, and where it should not.
    """

    name: str
    field: str
    values: tuple[int, ...]
    formula: str
    because: str
    against: Callable[[float], float] = float
    clock: str = "cpu"
    base: Point = field(default_factory=Point)

    def points(self) -> list[Point]:
        return [replace(self.base, **{self.field: value}) for value in self.values]


LAWS = (
    Law(
        "batch",
        "batch",
        (1, 2, 4, 8, 16),
        "1 / batch",
        "What a forward costs whatever its batch (Python, the pipeline's loop, small kernels) is shared by its images.",
        against=lambda batch: 1 / batch,
        base=Point(images=16),
    ),
    Law(
        "steps",
        "steps",
        (5, 10, 20, 40),
        "T",
        "Every step is one forward, and in training one backward; text, decoding and the optimizer are paid once.",
    ),
    Law(
        "resolution",
        "latent",
        (8, 12, 16, 24, 32),
        "positions of a latent",
        "Convolutions and projections cost the same at every position. Self-attention compares every position with "
        "every other, so the largest latents should cost more than the line says; here it attends at full resolution.",
        against=lambda latent: latent**2,
        base=Point(images=4, batch=4),
    ),
    Law(
        "LoRA rank",
        "rank",
        (1, 4, 16, 64, 128),
        "rank",
        "A layer of n inputs and m outputs multiplies n m numbers a position, its LoRA (n + m) rank: little until the "
        "rank comes near the widths, 48 and 96 here. Below that two small products a layer cost their calls, not "
        "their size.",
    ),
    Law(
        "processes",
        "processes",
        (1, 2, 4),
        "1 / processes",
        "Independent processes, each with a model and images of its own, started together: no gradients are exchanged. "
        "Where every process has a core, n of them do n times the work in the same time; beyond that they take turns.",
        against=lambda processes: 1 / processes,
        clock="wall",
    ),
)
QUICK = tuple(
    replace(law, values=law.values[:2], base=replace(law.base, images=2, batch=min(law.base.batch, 2), steps=2))
    for law in LAWS
)
Measured = dict[str, list[list[Cost]]]
"""By law: for each of its values, the cost in each round."""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="two small points a law, once: to see that it works")
    parser.add_argument("--only", nargs="+", choices=[law.name for law in LAWS])
    parser.add_argument("--write", type=Path, metavar="FOLDER", help="the folder of the page and of images/")
    parser.add_argument("--note", default="", help="what is to be said of the machine")
    options = parser.parse_args(arguments)
    laws = [law for law in (QUICK if options.quick else LAWS) if options.only is None or law.name in options.only]
    measured = {law.name: in_turn(law, 1 if options.quick else options.rounds) for law in laws}
    setting = f"{machine()}{options.note and f', {options.note}'}; {rounds_of(measured)} rounds"
    print("\n".join(tables(laws, measured)) + f"\n\n{setting}")
    if options.write is not None:
        (options.write / "images").mkdir(parents=True, exist_ok=True)
        (options.write / "images" / "scaling.svg").write_text(chart(laws, measured), encoding="utf-8")
        (options.write / "scaling.md").write_text(page(laws, measured, setting), encoding="utf-8")


def in_turn(law: Law, rounds: int) -> list[list[Cost]]:
    """The costs of each point of a law, one a round; rounds go forwards and backwards in turn."""
    points = law.points()
    costs: list[list[Cost]] = [[] for _ in points]
    for number in range(rounds):
        for index in range(len(points))[:: 1 if number % 2 == 0 else -1]:
            costs[index].append(cost(points[index], together(points[index])))
            print(f"round {number + 1}, {law.name} {law.values[index]}: {costs[index][-1]}", flush=True)
    return costs


@dataclass(frozen=True)
class Report:
    """What one process saw of its own work."""

    sampling: Seconds
    training: Seconds
    peak_bytes: int


def cost(point: Point, reports: Sequence[Report]) -> Cost:
    """Per query of all processes: CPU is added up, and the clock runs until the slowest is done."""
    queries = point.images * len(reports)

    def per_query(phase: str) -> Seconds:
        seconds = [getattr(report, phase) for report in reports]
        wall, cpu = max(each.wall for each in seconds), sum(each.cpu for each in seconds)
        return Seconds(1000 * wall / queries, 1000 * cpu / queries)

    return Cost(per_query("sampling"), per_query("training"), max(report.peak_bytes for report in reports) / 1e6)


def together(point: Point) -> list[Report]:
    """The reports of `point.processes` fresh processes. They are forked from one that has only imported libraries."""
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
        raise SystemExit("a process of the benchmark failed, see above") from None
    finally:
        for worker in workers:
            worker.join()


def work(point: Point, barrier: Barrier, report: Connection) -> None:
    """One process of `together`."""
    torch.set_num_threads(1)
    report.send(measure(point, barrier))


def measure(point: Point, barrier: Barrier) -> Report:
    """Build, warm up, and do the work of a point once; every phase begins in all processes at the same time."""
    quiet_libraries()
    torch.manual_seed(0)
    config = configuration(
        point.images, point.steps, square(PIXELS * point.latent), point.batch, lora_rank=point.rank, device="cpu"
    )
    policy = make_policy(_tiny_sd.build(), config)
    short = config.model_copy(update={"sample": config.sample.model_copy(update={"steps": min(2, point.steps)})})
    update(policy, short, rollout(policy, short))
    device = torch.device("cpu")
    barrier.wait(PATIENCE)
    trajectory, sampling = timed(device, lambda: rollout(policy, config))
    barrier.wait(PATIENCE)
    _, training = timed(device, lambda: update(policy, config, trajectory))
    return Report(sampling, training, peak_resident_bytes())


def rounds_of(measured: Measured) -> int:
    return max(len(costs) for law in measured.values() for costs in law)


def machine() -> str:
    load = statistics.mean(os.getloadavg())
    return (
        f"{platform.machine()}, {os.cpu_count()} cores, one thread a process, float32, torch {torch.__version__}, "
        f"load average {load:.1f}"
    )


if __name__ == "__main__":
    main()
