"""Before training: does a replay of the first batch give back exactly what the rollout recorded?"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from stepcredit.errors import InputError
from stepcredit.maths import gaussian
from stepcredit.types import Policy, Trajectory

TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-6, torch.bfloat16: 1e-3, torch.float16: 1e-3}
"""Largest accepted |log ratio| between rollout and replay, by the dtype of the latents."""

SINGLE_TOLERANCE = 1e-2
"""The same for one image replayed alone, where kernels may round otherwise: catches a wrong selection of rows."""


@dataclass(frozen=True)
class SelfCheck:
    """Result of `self_check`: the largest difference found and what was compared."""

    max_deviation: float
    steps: int
    samples: int

    def __str__(self) -> str:
        exact = "exact" if self.max_deviation == 0 else f"within {self.max_deviation:.1e}"
        return f"{self.steps} steps of {self.samples} images replay {exact}"


def self_check(policy: Policy, trajectory: Trajectory, batch: int | None = None) -> SelfCheck:
    """Replay every step of `trajectory` without gradients and compare log-probabilities; then one with gradients.

    Args:
        batch: images per replay. With that of the rollout (None is all at once) a sound pipeline replays exactly, in
            the memory that the rollout took.

    Raises InputError, saying what was found, if the difference exceeds TOLERANCE or no gradient reaches the weights: a
    policy that fails would be trained on something other than what it sampled.
    """
    steps = _trainable_steps(trajectory)
    chunks = torch.arange(len(trajectory)).split(batch or len(trajectory))
    with torch.no_grad():
        worst = torch.stack(
            [torch.stack([_deviation(policy, trajectory, step, rows) for rows in chunks]).max() for step in steps]
        )
    largest, step = float(worst.max()), steps[int(worst.argmax())]
    tolerance = TOLERANCE[trajectory.latents.dtype]
    if not largest <= tolerance:
        raise InputError(
            f"this pipeline does not replay: log-probabilities differ by {largest:.2e} at step {step} of "
            f"{trajectory.steps} (allowed {tolerance:.0e}), so what would be trained is not what is sampled"
        )
    deviation = _deviation(policy, trajectory, steps[0], torch.arange(1))
    if not deviation.requires_grad:
        raise InputError("no gradient reaches the trained weights: the pipeline disables it inside its __call__")
    if not float(deviation.detach()) <= SINGLE_TOLERANCE:
        raise InputError(
            f"one image replayed without the rest of its batch differs by {float(deviation.detach()):.2e}: this "
            f"pipeline mixes the images of a batch, or micro-batches of it are cut wrongly"
        )
    return SelfCheck(largest, len(steps), len(trajectory))


def _deviation(policy: Policy, trajectory: Trajectory, step: int, rows: Tensor) -> Tensor:
    """Largest |log ratio| of some images at one step."""
    transition = policy.replay(trajectory, step, None if len(rows) == len(trajectory) else rows)
    log_prob = gaussian.log_prob(trajectory.latents[rows, step + 1], transition.mean, transition.std)
    return (log_prob - trajectory.log_probs[rows, step]).abs().max()


def _trainable_steps(trajectory: Trajectory) -> list[int]:
    steps = trajectory.trainable.nonzero().flatten().tolist()
    if not steps:
        raise InputError("every step of the walk has zero variance: sample.eta must be above 0")
    return steps
