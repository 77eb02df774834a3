"""Before training: does a replay of the first batch give back exactly what the rollout recorded?"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from stepcredit.errors import InputError
from stepcredit.maths import gaussian
from stepcredit.maths.indexing import filled
from stepcredit.training.recovery import out_of_memory
from stepcredit.types import Policy, Trajectory

TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-6, torch.bfloat16: 1e-3, torch.float16: 1e-3}
"""Largest accepted |log ratio| between rollout and replay, by the dtype of the latents."""

SINGLE_TOLERANCE = 1e-2
"""The same for one image replayed alone, where kernels may round otherwise: catches a wrong selection of rows."""


@dataclass(frozen=True)
class ReplayCheck:
    """Result of `self_check`.

    Attributes:
        max_deviation: largest |log ratio| found.
        trained: steps that were compared, in order.
        steps: steps of the trajectory.
        samples: images.
        mode: how the policy replays.
    """

    max_deviation: float
    trained: tuple[int, ...]
    steps: int
    samples: int
    mode: str

    def __str__(self) -> str:
        exact = "exact" if self.max_deviation == 0 else f"within {self.max_deviation:.1e}"
        text = f"{len(self.trained)} steps of {self.samples} images replay {exact} ({self.mode})"
        left_out = [str(step + 1) for step in range(self.steps) if step not in self.trained]
        if not left_out:
            return text
        return f"{text}; not trained, without noise or with too little: step {', '.join(left_out)} of {self.steps}"


def replay_check(
    policy: Policy, trajectory: Trajectory, batch: int | None = None, microbatch: int | None = None
) -> ReplayCheck:
    """Replay every step of `trajectory` without gradients and compare log-probabilities; then one with gradients.

    The policy's replay modes are tried in order and the first that is exact stays set.

    Args:
        batch: images sampled at a time, None is all: replayed as many at a time, a sound pipeline replays exactly.
        microbatch: (image, step) pairs per training forward, if that is another number: replayed as well.

    Raises InputError, saying what was found, if the difference exceeds TOLERANCE or no gradient reaches the weights: a
    policy that fails would be trained on something other than what it sampled.
    """
    steps = _trainable_steps(trajectory)
    tolerance = TOLERANCE[trajectory.latents.dtype]
    for mode in policy.replay_modes:
        policy.replay_mode = mode
        largest, step = _tried(policy, trajectory, steps, min(batch or len(trajectory), len(trajectory)))
        if largest <= tolerance:
            break
    else:
        raise InputError(
            f"this pipeline does not replay: log-probabilities differ by {largest:.2e} at step {step + 1} of "
            f"{trajectory.steps} (allowed {tolerance:.0e}), so what would be trained is not what is sampled"
        )
    if microbatch is not None and microbatch != batch:
        largest = max(largest, _require_alike(policy, trajectory, steps, batch, microbatch, tolerance))
    _require_gradient(policy, trajectory, steps[0])
    return ReplayCheck(largest, tuple(steps), trajectory.steps, len(trajectory), mode)


def _tried(policy: Policy, trajectory: Trajectory, steps: list[int], size: int) -> tuple[float, int]:
    """As `_worst`; a pipeline that cannot even run with steps mixed counts as infinitely far off in that mode."""
    try:
        return _worst(policy, trajectory, steps, size)
    except (IndexError, RuntimeError, TypeError, ValueError) as error:
        if not policy.mixes_steps or out_of_memory(error):
            raise
        return math.inf, steps[0]


def _worst(policy: Policy, trajectory: Trajectory, steps: list[int], size: int) -> tuple[float, int]:
    """(largest |log ratio|, its step) over all pairs of images and steps; NaN counts as largest.

    Where steps are mixed, each replay holds as many different ones as it can.
    """
    at, rows = torch.cartesian_prod(torch.tensor(steps), torch.arange(len(trajectory))).view(-1, 2).unbind(1)
    if policy.mixes_steps:
        order = rows.argsort(stable=True)
        batches = list(zip(at[order].split(size), rows[order].split(size), strict=True))
    else:
        batches = [
            (at[rows_of], rows[rows_of]) for step in steps for rows_of in (at == step).nonzero().flatten().split(size)
        ]
    with torch.no_grad():
        found = [_deviations(policy, trajectory, filled(at, size), filled(rows, size)) for at, rows in batches]
    deviations, stepped = torch.cat(found).cpu(), torch.cat([filled(at, size) for at, _ in batches])
    return float(deviations.amax()), int(stepped[deviations.argmax()])


def _require_alike(
    policy: Policy, trajectory: Trajectory, steps: list[int], batch: int | None, microbatch: int, tolerance: float
) -> float:
    largest, _ = _worst(policy, trajectory, steps, microbatch)
    count = len(trajectory)
    if not largest <= tolerance:
        raise InputError(
            f"replayed {microbatch} images at a time, what was sampled {min(batch or count, count)} at a time differs "
            f"by {largest:.1e} (allowed {tolerance:.0e}), because kernels round by batch size: leave sample.batch "
            "unset, or set it to train.microbatch"
        )
    return largest


def _require_gradient(policy: Policy, trajectory: Trajectory, step: int) -> None:
    deviation = _deviations(policy, trajectory, torch.tensor([step]), torch.arange(1)).max()
    if not deviation.requires_grad:
        raise InputError("no gradient reaches the trained weights: the pipeline disables it inside its __call__")
    if not float(deviation.detach()) <= SINGLE_TOLERANCE:
        raise InputError(
            f"one image replayed without the rest of its batch differs by {float(deviation.detach()):.2e}: this "
            f"pipeline mixes the images of a batch, or micro-batches of it are cut wrongly"
        )


def _deviations(policy: Policy, trajectory: Trajectory, steps: Tensor, rows: Tensor) -> Tensor:
    """|log ratio| of some images, each at its step."""
    transition = policy.replay(trajectory, steps, rows)
    log_prob = gaussian.log_prob(trajectory.latents[rows, steps + 1], transition.mean, transition.std)
    return (log_prob - trajectory.log_probs[rows, steps]).abs()


def _trainable_steps(trajectory: Trajectory) -> list[int]:
    steps: list[int] = trajectory.trainable.nonzero().flatten().tolist()
    if not steps:
        raise InputError(
            "no step of the trajectory has enough noise to be trained: raise sample.eta (or sample.noise_level), or lower "
            "sample.min_std"
        )
    return steps
