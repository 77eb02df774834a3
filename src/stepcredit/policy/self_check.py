"""Before training: does a replay of the first batch give back exactly what the rollout recorded?"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from stepcredit.errors import InputError
from stepcredit.maths import gaussian
from stepcredit.types import Policy, Trajectory

TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-6, torch.bfloat16: 1e-3, torch.float16: 1e-3}
"""Largest accepted |log ratio| between rollout and replay, by the dtype of the latents."""


@dataclass(frozen=True)
class SelfCheck:
    """Result of `self_check`: the largest difference found and what was compared."""

    max_deviation: float
    steps: int
    samples: int

    def __str__(self) -> str:
        exact = "exact" if self.max_deviation == 0 else f"within {self.max_deviation:.1e}"
        return f"{self.steps} steps of {self.samples} images replay {exact}"


def self_check(policy: Policy, trajectory: Trajectory) -> SelfCheck:
    """Replay every step of `trajectory` without gradients and compare log-probabilities; then one with gradients.

    Raises InputError, saying what was found, if the difference exceeds TOLERANCE or no gradient reaches the weights: a
    policy that fails would be trained on something other than what it sampled.
    """
    deviations = []
    with torch.no_grad():
        for step in _trainable_steps(trajectory):
            transition = policy.replay(trajectory, step)
            log_prob = gaussian.log_prob(trajectory.latents[:, step + 1], transition.mean, transition.std)
            deviations.append((log_prob - trajectory.log_probs[:, step]).abs().max())
    worst = torch.stack(deviations)
    largest, step = float(worst.max()), int(worst.argmax())
    tolerance = TOLERANCE[trajectory.latents.dtype]
    if not largest <= tolerance:
        raise InputError(
            f"this pipeline does not replay: log-probabilities differ by {largest:.2e} at step {step} of "
            f"{trajectory.steps} (allowed {tolerance:.0e}), so what would be trained is not what is sampled"
        )
    transition = policy.replay(trajectory, _trainable_steps(trajectory)[0], torch.arange(1))
    if not transition.mean.requires_grad:
        raise InputError("no gradient reaches the trained weights: the pipeline disables it inside its __call__")
    return SelfCheck(largest, len(deviations), len(trajectory))


def _trainable_steps(trajectory: Trajectory) -> list[int]:
    steps = trajectory.trainable.nonzero().flatten().tolist()
    if not steps:
        raise InputError("every step of the walk has zero variance: sample.eta must be above 0")
    return steps
