"""Run one rollout and one update of a policy, the work that `real_size.py`, `scaling.py` and `gpu.py` measure."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch

from stepcredit.algorithms import build_algorithm
from stepcredit.algorithms.minibatch import Experience
from stepcredit.algorithms.sampling_plan import training_plan
from stepcredit.config import TrainConfig
from stepcredit.distributed.partition import unpartitioned
from stepcredit.distributed.process_group import ProcessGroup
from stepcredit.policy.pipeline import PipelinePolicy
from stepcredit.runs.recipes import validate
from stepcredit.training.state import build_training_optimizer
from stepcredit.training.update import update_policy
from stepcredit.types import Prompt, Trajectory

PROMPT = Prompt("a red circle on a blue background")
GUIDANCE = 5.0
Value = TypeVar("Value")


class Seconds(NamedTuple):
    """Wall time, and CPU time of this process."""

    wall: float
    cpu: float


def configuration(
    images: int, steps: int, call: dict[str, Any] | None = None, batch: int | None = None, **model: Any
) -> TrainConfig:
    """One epoch with one update on `images` images of one prompt, with guidance.

    Args:
        images: number of images.
        steps: number of denoising steps.
        call: additional arguments of the pipeline's call.
        batch: number of images to sample and train at a time.
        model: keys of the section `model`.
    """
    sample = {"steps": steps, "guidance": GUIDANCE, "prompts_per_epoch": 1, "images_per_prompt": images}
    return validate(
        {
            "model": model,
            "sample": {**sample, "batch": batch, "call": call or {}},
            "train": {"updates_per_epoch": 1, "microbatch": batch, "learning_rate": 1e-4},
        },
        "benchmark",
    )


def square(pixels: int) -> dict[str, int]:
    """Call arguments for square images of the given size."""
    return {"height": pixels, "width": pixels}


def rollout(policy: PipelinePolicy, config: TrainConfig) -> Trajectory:
    images = config.images_per_epoch or 1
    return policy.rollout(
        [PROMPT] * images, range(images), training_plan(config, build_algorithm(config.train).needs, images)
    ).trajectory


def update(policy: PipelinePolicy, config: TrainConfig, trajectory: Trajectory) -> dict[str, float]:
    """One optimizer step with all advantages 1; returns the metrics."""
    advantages = torch.ones(trajectory.log_probs.shape, device=trajectory.latents.device)
    experience = Experience(trajectory, advantages, unpartitioned(len(trajectory)))
    optimizer = build_training_optimizer(config, policy, ProcessGroup())
    return update_policy(
        build_algorithm(config.train), policy, optimizer, experience, config.train, np.random.default_rng(0)
    )


def timed(device: torch.device, work: Callable[[], Value]) -> tuple[Value, Seconds]:
    """The result of `work`, and the time until the device has finished it."""
    synchronize(device)
    wall, cpu = time.perf_counter(), time.process_time()
    value = work()
    synchronize(device)
    return value, Seconds(time.perf_counter() - wall, time.process_time() - cpu)


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def break_even(spent: float, before: float, after: float) -> float:
    """The number of queries that recover `spent` seconds if a query takes `after` instead of `before`, or inf."""
    return spent / (before - after) if before > after else math.inf
