"""Measure one model for `gpu.py`. Each measurement is yielded as a dictionary."""

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
from _measured import peak_resident_bytes
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
"""Rounds of measurements in alternation."""
VARIANTS = ("reference", "eager", "checkpointing", "compiled")
Result = dict[str, Any]


@dataclass(frozen=True)
class Size:
    """The image sizes to try, of which the first that fits is used, and the batch sizes."""

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
"""Operations of a forward with backward, in forwards. The gradients of the inputs cost one forward, those of a LoRA's
weights almost nothing. Recomputation by checkpointing is not counted."""


@dataclass(frozen=True)
class Task:
    """What to measure for a model.

    Attributes:
        deadline: a `time.time()`. No measurement starts that may not end before it.
    """

    model: str
    device: str
    dtype: str
    steps: int
    variants: tuple[str, ...]
    tiny: bool
    deadline: float

    @property
    def pixels(self) -> tuple[int | None, ...]:
        return (None,) if self.tiny else SIZES[self.model].pixels

    @property
    def batches(self) -> tuple[int, ...]:
        return TINY_BATCHES if self.tiny else SIZES[self.model].batches


def device_info(task: Task) -> Iterator[Result]:
    """The name and memory of the device, and its rate of matrix products in the task's dtype."""
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
    """Operations per second of matrix products in the best of several rounds. A multiply-add counts as two."""
    size = MATRIX[device.type]
    left, right = torch.randn(2, size, size, device=device).to(dtype)
    out = left @ right
    products = 10

    def work() -> None:
        for _ in range(products):
            torch.mm(left, right, out=out)

    return max(2 * size**3 * products / timed(device, work)[1].wall for _ in range(rounds))


def measurements(task: Task) -> Iterator[Result]:
    """All measurements of a model at the first image size at which training fits. Problems are results too."""
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
    """The pipeline, and the call arguments for small images."""
    if not task.tiny:
        return build(task.model, task.dtype, device), {}
    sys.path.append(str(Path(__file__).parents[1]))
    from tests.families import FAMILIES

    family = FAMILIES[TINY[task.model]]
    return family.build(0).to(device, getattr(torch, task.dtype)), family.call


class Bench:
    """The measurements of a model at one image size."""

    def __init__(self, task: Task, device: torch.device, pixels: int | None, call: dict[str, Any]) -> None:
        self.task, self.device, self.pixels, self.call = task, device, pixels, call
        self.flops = 0.0
        self.last = 0.0

    def configuration(self, batch: int, steps: int | None = None) -> TrainConfig:
        return configuration(batch, steps or self.task.steps, self.call, batch, dtype=self.task.dtype)

    def all(self, policy: PipelinePolicy) -> Iterator[Result]:
        """The model's size, the sweep over batch sizes, then the other variants at the fastest batch size."""
        denoiser: Any = getattr(policy.pipeline, policy.denoiser)
        facts = self.guarded("model", 1, lambda: self.model(policy, denoiser))
        yield facts
        if "problem" in facts:
            return
        if "reference" in self.task.variants:
            yield self.guarded("reference", 1, lambda: self.reference(policy))
        sweep = []
        for batch in self.task.batches:
            sweep.append(self.measured("eager", policy, batch))
            yield sweep[-1]
            if "problem" in sweep[-1]:
                break
        complete = [result for result in sweep if "problem" not in result]
        if not complete:
            return
        best = max(complete, key=lambda result: result["training"]["samples_per_second"])["batch"]
        if "reference" in self.task.variants:
            yield self.guarded("alternated", best, lambda: self.alternated(policy, best))
        if "checkpointing" in self.task.variants:
            denoiser.enable_gradient_checkpointing()
            for batch in sorted({best, sweep[-1]["batch"]}):
                yield self.measured("checkpointing", policy, batch)
            yield self.against_eager("checkpointing", policy, best, partial(checkpointing, denoiser))
            checkpointing(denoiser, False)
        if "compiled" in self.task.variants:
            configure(denoiser, ModelSection(compile=True))
            yield self.measured("compiled", policy, best)
            yield self.against_eager("compiled", policy, best, compile_switch(denoiser))

    def model(self, policy: PipelinePolicy, denoiser: Any) -> Result:
        trajectory = rollout(policy, self.configuration(1))
        self.flops = forward_flops(policy, trajectory)
        return {
            "weights": sum(weight.numel() for weight in denoiser.parameters()),
            "trained": sum(weight.numel() for weight in policy.parameters()),
            "tflop": self.flops / 1e12,
        }

    def measured(self, way: str, policy: PipelinePolicy, batch: int) -> Result:
        """A rollout and an update of `batch` images in one batch, after a warm-up of two steps."""
        return self.guarded(way, batch, lambda: self.batched(policy, batch))

    def batched(self, policy: PipelinePolicy, batch: int) -> Result:
        short, config = self.configuration(batch, steps=min(2, self.task.steps)), self.configuration(batch)
        _, warm = timed(self.device, lambda: update(policy, short, rollout(policy, short)))
        trajectory, sampling = self.phase(batch, lambda: rollout(policy, config), self.task.steps)
        trained = int(trajectory.trainable.sum())
        _, training = self.phase(batch, lambda: update(policy, config, trajectory), TRAINED * trained)
        return {"seconds_warm_up": warm.wall, "sampling": sampling, "training": training}

    def alternated(self, policy: PipelinePolicy, batch: int) -> Result:
        """The speed-up over the reference loop, measured in alternation."""
        pairs = [(self.reference(policy), self.batched(policy, batch)) for _ in range(ROUNDS)]
        return {"times": [query_seconds(reference) / query_seconds(ours) for reference, ours in pairs]}

    def against_eager(self, way: str, policy: PipelinePolicy, batch: int, switch: Callable[[bool], None]) -> Result:
        """The speed-up of a variant over eager, measured in alternation."""

        def rounds() -> Result:
            ratios: list[float] = []
            for _ in range(ROUNDS):
                switch(False)
                eager = query_seconds(self.batched(policy, batch))
                switch(True)
                ratios.append(eager / query_seconds(self.batched(policy, batch)))
            return {"times_eager": ratios}

        return self.guarded(way, batch, rounds)

    def reference(self, policy: PipelinePolicy) -> Result:
        """The reference loop: one image and one step at a time."""
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
        """The result of `work`, and its figures. `forwards` is the work per image in forwards of the denoiser."""
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
        """The result of `work`, or a problem: it does not fit into memory, or may not end before the deadline."""
        about = {"model": self.task.model, "way": way, "batch": batch, "pixels": self.pixels}
        left = self.task.deadline - time.time()
        if 3 * self.last > left:
            return about | {"problem": f"skipped: {left:.0f} s left, up to {3 * self.last:.0f} s needed"}
        started = time.time()
        result = _unless_out_of_memory(work)
        if result is None:
            gc.collect()
            torch.cuda.empty_cache()
            return about | {"problem": "does not fit into memory"}
        self.last = time.time() - started
        return about | result


def checkpointing(denoiser: Any, on: bool) -> None:
    (denoiser.enable_gradient_checkpointing if on else denoiser.disable_gradient_checkpointing)()


def compile_switch(denoiser: Any) -> Callable[[bool], None]:
    """A function that switches the compiled parts of the denoiser on or off."""
    compiled = {part: part._compiled_call_impl for part in denoiser.modules() if part._compiled_call_impl is not None}

    def switch(on: bool) -> None:
        for part, call in compiled.items():
            part._compiled_call_impl = call if on else None

    return switch


def query_seconds(result: Result) -> float:
    """Seconds to sample and train one image."""
    return sum(1 / float(result[phase]["samples_per_second"]) for phase in ("sampling", "training"))


def _unless_out_of_memory(work: Callable[[], Result]) -> Result | None:
    try:
        return work()
    except torch.OutOfMemoryError:
        return None


def forward_flops(policy: PipelinePolicy, trajectory: Trajectory) -> float:
    """Operations of the denoiser for one step of one image, including guidance."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        policy.replay(trajectory, 0, torch.arange(1))
    return float(counter.get_total_flops())


def replayed(policy: PipelinePolicy, trajectory: Trajectory, advantages: Tensor, config: TrainConfig) -> None:
    """The loop of `microbatch.bare` for other models: replays one (image, step) pair at a time through the pipeline."""
    steps: Sequence[int] = trajectory.trainable.nonzero().flatten().tolist()
    for row in range(len(trajectory)):
        for step in steps:
            at = torch.tensor([row])
            transition = policy.replay(trajectory, step, at)
            log_prob = gaussian.step_log_prob(transition, trajectory.latents[at, step + 1])
            old, advantage = trajectory.log_probs[at, step], advantages[at, step]
            value = loss.clipped_surrogate(log_prob, old, advantage, config.train.clip_range)
            (value.sum() / (len(trajectory) * len(steps))).backward()


def peak_bytes(device: torch.device) -> int:
    """Peak memory allocated on the device since the last reset; on a CPU, peak resident memory of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return peak_resident_bytes()
