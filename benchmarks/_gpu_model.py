"""What `gpu.py` measures of one model: a stream of results, each of them a plain dictionary."""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from _alike import peak_resident_bytes
from _throughput import configuration, rollout, square, timed, update
from diffusers import DiffusionPipeline, StableDiffusionPipeline
from microbatch import bare
from real_size import build
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from stepcredit.config import ModelSection, TrainConfig
from stepcredit.maths import gaussian, loss
from stepcredit.policy.adapters.denoiser import configure
from stepcredit.policy.loading import make_policy
from stepcredit.policy.pipeline import PipelinePolicy
from stepcredit.types import Trajectory
from stepcredit.utils.logging import quiet_libraries

ROUNDS = 3
"""Of what is compared in turn."""
WAYS = ("reference", "eager", "checkpointing", "compiled")
Result = dict[str, Any]


@dataclass(frozen=True)
class Size:
    """How a model is measured: images of these sizes, the first that fits, so many at a time."""

    pixels: tuple[int, ...]
    batches: tuple[int, ...]


SIZES = {
    "sd15": Size((512,), (1, 2, 4, 8, 16, 32)),
    "sd35m": Size((512,), (1, 2, 4, 8, 16)),
    "sdxl": Size((1024, 512), (1, 2, 4, 8)),
}
TINY = {"sd15": "sd", "sd35m": "sd3", "sdxl": "sdxl"}
TINY_BATCHES = (1, 2)
MATRIX = {"cuda": 8192, "cpu": 512}
TRAINED = 2
"""Operations of a forward with its backward, in forwards: one for the input gradients. Those of the weights, one more
where all are trained, are next to nothing for a LoRA; what checkpointing computes again is no work of the model."""


@dataclass(frozen=True)
class Task:
    """What is to be measured of a model.

    Attributes:
        deadline: on `time.time`, after which no new measurement is begun that is not sure to end in time.
    """

    model: str
    device: str
    dtype: str
    steps: int
    ways: tuple[str, ...]
    tiny: bool
    deadline: float

    @property
    def pixels(self) -> tuple[int | None, ...]:
        return (None,) if self.tiny else SIZES[self.model].pixels

    @property
    def batches(self) -> tuple[int, ...]:
        return TINY_BATCHES if self.tiny else SIZES[self.model].batches


def card(task: Task) -> Iterator[Result]:
    """The device: its name, its memory, and the rate of products of square matrices in the dtype of the work."""
    device = torch.device(task.device)
    cuda = device.type == "cuda"
    yield {
        "device": torch.cuda.get_device_name(device) if cuda else f"CPU, {torch.get_num_threads()} thread(s)",
        "memory_gb": torch.cuda.get_device_properties(device).total_memory / 1e9 if cuda else None,
        "torch": torch.__version__,
        "dtype": task.dtype,
        "tflops": matrix_rate(device, getattr(torch, task.dtype)) / 1e12,
    }


def matrix_rate(device: torch.device, dtype: torch.dtype, rounds: int = 5) -> float:
    """Operations per second of the best of some rounds of products; a multiplication and an addition are two."""
    size = MATRIX[device.type]
    left, right = torch.randn(2, size, size, device=device).to(dtype)
    out = left @ right
    products = 10

    def work() -> None:
        for _ in range(products):
            torch.mm(left, right, out=out)

    return max(2 * size**3 * products / timed(device, work)[1].wall for _ in range(rounds))


def measurements(task: Task) -> Iterator[Result]:
    """All of a model, at the first size at which one image at a time can be trained. Problems are results too."""
    quiet_libraries()
    torch.manual_seed(0)
    device = torch.device(task.device)
    pipeline, call = pipeline_of(task, device)
    policy: PipelinePolicy | None = None
    for pixels in task.pixels:
        bench = Bench(task, device, pixels, call if pixels is None else square(pixels))
        if policy is None:
            policy = make_policy(pipeline, bench.configuration(1))
        policy.sample = bench.configuration(1).sample
        fits = False
        for result in bench.all(policy):
            fits |= "training" in result
            yield result
        if fits:
            return


def pipeline_of(task: Task, device: torch.device) -> tuple[DiffusionPipeline, dict[str, Any]]:
    """(pipeline, what its call needs to be small)."""
    if not task.tiny:
        return build(task.model, task.dtype, device), {}
    sys.path.append(str(Path(__file__).parents[1]))
    from tests.families import FAMILIES

    family = FAMILIES[TINY[task.model]]
    return family.build(0).to(device, getattr(torch, task.dtype)), family.call


class Bench:
    """The measurements of a model at one size."""

    def __init__(self, task: Task, device: torch.device, pixels: int | None, call: dict[str, Any]) -> None:
        self.task, self.device, self.pixels, self.call = task, device, pixels, call
        self.flops = 0.0
        self.last = 0.0

    def configuration(self, batch: int, steps: int | None = None) -> TrainConfig:
        return configuration(batch, steps or self.task.steps, self.call, batch, dtype=self.task.dtype)

    def all(self, policy: PipelinePolicy) -> Iterator[Result]:
        """The model itself, the micro-batch sweep, then the other ways at the batch that trains fastest."""
        denoiser: Any = getattr(policy.pipeline, policy.denoiser)
        facts = self.guarded("model", 1, lambda: self.model(policy, denoiser))
        yield facts
        if "problem" in facts:
            return
        if "reference" in self.task.ways:
            yield self.guarded("reference", 1, lambda: self.reference(policy))
        sweep = []
        for batch in self.task.batches:
            sweep.append(self.measured("eager", policy, batch))
            yield sweep[-1]
            if "problem" in sweep[-1]:
                break
        whole = [result for result in sweep if "problem" not in result]
        if not whole:
            return
        best = max(whole, key=lambda result: result["training"]["samples_per_second"])["batch"]
        if "reference" in self.task.ways:
            yield self.guarded("alternated", best, lambda: self.alternated(policy, best))
        if "checkpointing" in self.task.ways:
            denoiser.enable_gradient_checkpointing()
            for batch in sorted({best, sweep[-1]["batch"]}):
                yield self.measured("checkpointing", policy, batch)
            yield self.turned("checkpointing", policy, best, partial(checkpointing, denoiser))
            checkpointing(denoiser, False)
        if "compiled" in self.task.ways:
            configure(denoiser, ModelSection(compile=True))
            yield self.measured("compiled", policy, best)
            yield self.turned("compiled", policy, best, compiled_or_not(denoiser))

    def model(self, policy: PipelinePolicy, denoiser: Any) -> Result:
        trajectory = rollout(policy, self.configuration(1))
        self.flops = forward_flops(policy, trajectory)
        return {
            "weights": sum(weight.numel() for weight in denoiser.parameters()),
            "trained": sum(weight.numel() for weight in policy.parameters()),
            "tflop": self.flops / 1e12,
        }

    def measured(self, way: str, policy: PipelinePolicy, batch: int) -> Result:
        """A rollout and an update of `batch` images, all at a time, after two steps to warm up."""
        return self.guarded(way, batch, lambda: self.batched(policy, batch))

    def batched(self, policy: PipelinePolicy, batch: int) -> Result:
        short, config = self.configuration(batch, steps=min(2, self.task.steps)), self.configuration(batch)
        _, warm = timed(self.device, lambda: update(policy, short, rollout(policy, short)))
        trajectory, sampling = self.phase(batch, lambda: rollout(policy, config), self.task.steps)
        trained = int(trajectory.trainable.sum())
        _, training = self.phase(batch, lambda: update(policy, config, trajectory), TRAINED * trained)
        return {"seconds_warm_up": warm.wall, "sampling": sampling, "training": training}

    def alternated(self, policy: PipelinePolicy, batch: int) -> Result:
        """How many times the reference-style loop, a query, in turn with it."""
        pairs = [(self.reference(policy), self.batched(policy, batch)) for _ in range(ROUNDS)]
        return {"times": [query_seconds(reference) / query_seconds(ours) for reference, ours in pairs]}

    def turned(self, way: str, policy: PipelinePolicy, batch: int, switch: Callable[[bool], None]) -> Result:
        """How many times the eager way, a query, in turn with it."""

        def rounds() -> Result:
            found: list[float] = []
            for _ in range(ROUNDS):
                switch(False)
                eager = query_seconds(self.batched(policy, batch))
                switch(True)
                found.append(eager / query_seconds(self.batched(policy, batch)))
            return {"times_eager": found}

        return self.guarded(way, batch, rounds)

    def reference(self, policy: PipelinePolicy) -> Result:
        """One image at one step at a time, as the reference implementations sample and train."""
        config = self.configuration(1)
        loop = bare if isinstance(policy.pipeline, StableDiffusionPipeline) else replayed

        def train(trajectory: Trajectory) -> None:
            optimizer = torch.optim.AdamW(policy.parameters(), lr=config.train.learning_rate)
            loop(policy, trajectory, torch.ones(trajectory.log_probs.shape, device=self.device), config)
            optimizer.step()
            optimizer.zero_grad()

        train(rollout(policy, config))
        trajectory, sampling = self.phase(1, lambda: rollout(policy, config), self.task.steps)
        steps = trajectory.steps if loop is bare else int(trajectory.trainable.sum())
        _, training = self.phase(1, lambda: train(trajectory), TRAINED * steps)
        return {"sampling": sampling, "training": training}

    def phase(self, images: int, work: Callable[[], Any], forwards: int) -> tuple[Any, Result]:
        """(what `work` returns, its figures), where `forwards` are those of one image, or as many operations."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        value, seconds = timed(self.device, work)
        return value, {
            "seconds": seconds.wall,
            "samples_per_second": images / seconds.wall,
            "tflops": images * forwards * self.flops / seconds.wall / 1e12,
            "peak_gb": peak_bytes(self.device) / 1e9,
        }

    def guarded(self, way: str, batch: int, work: Callable[[], Result]) -> Result:
        """The result of `work`, or the problem: no time for it, judged by the one before, or no memory."""
        about = {"model": self.task.model, "way": way, "batch": batch, "pixels": self.pixels}
        left = self.task.deadline - time.time()
        if 3 * self.last > left:
            return about | {"problem": f"skipped: {left:.0f} s left, {3 * self.last:.0f} s may be needed"}
        started = time.time()
        found = _unless_full(work)
        if found is None:
            gc.collect()
            torch.cuda.empty_cache()
            return about | {"problem": "does not fit into memory"}
        self.last = time.time() - started
        return about | found


def checkpointing(denoiser: Any, on: bool) -> None:
    (denoiser.enable_gradient_checkpointing if on else denoiser.disable_gradient_checkpointing)()


def compiled_or_not(denoiser: Any) -> Callable[[bool], None]:
    """A switch between what was compiled of the denoiser and the same as it was written."""
    compiled = {part: part._compiled_call_impl for part in denoiser.modules() if part._compiled_call_impl is not None}

    def switch(on: bool) -> None:
        for part, call in compiled.items():
            part._compiled_call_impl = call if on else None

    return switch


def query_seconds(result: Result) -> float:
    """Of one image, sampled and trained."""
    return sum(1 / float(result[phase]["samples_per_second"]) for phase in ("sampling", "training"))


def _unless_full(work: Callable[[], Result]) -> Result | None:
    try:
        return work()
    except torch.OutOfMemoryError:
        return None


def forward_flops(policy: PipelinePolicy, trajectory: Trajectory) -> float:
    """Operations of one image at one step, with both rows of its guidance: of the denoiser, for nothing else is run."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        policy.replay(trajectory, 0, torch.arange(1))
    return float(counter.get_total_flops())


def replayed(policy: PipelinePolicy, trajectory: Trajectory, advantages: Tensor, config: TrainConfig) -> None:
    """As `microbatch.bare`, for denoisers that are called in other ways: through the pipeline, one pair at a time."""
    steps: Sequence[int] = trajectory.trainable.nonzero().flatten().tolist()
    for row in range(len(trajectory)):
        for step in steps:
            at = torch.tensor([row])
            transition = policy.replay(trajectory, step, at)
            log_prob = gaussian.log_prob(trajectory.latents[at, step + 1], transition.mean, transition.std)
            old, advantage = trajectory.log_probs[at, step], advantages[at, step]
            value = loss.clipped_surrogate(log_prob, old, advantage, config.train.clip_range)
            (value.sum() / (len(trajectory) * len(steps))).backward()


def peak_bytes(device: torch.device) -> int:
    """Allocated on the device since it was last reset, or on a CPU resident in the process since it began."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return peak_resident_bytes()
