"""The gradient of one update, accumulated over forwards of many images and steps."""

from __future__ import annotations

import torch
from torch import Tensor

from stepcredit.algorithms.base import Algorithm, LossOutput
from stepcredit.algorithms.metrics import UpdateMetrics
from stepcredit.algorithms.minibatch import Experience, StepBatch, UpdatePart, forward_count, pair_batches
from stepcredit.maths import loss
from stepcredit.types import Policy


def accumulate_gradient(
    algorithm: Algorithm,
    policy: Policy,
    scaler: torch.amp.GradScaler,
    experience: Experience,
    part: UpdatePart,
    size: int,
    share: float = 1.0,
) -> UpdateMetrics:
    """Backpropagate the loss of one update, `size` (image, step) pairs per forward, with one graph alive at a time.

    The loss is the mean of `algorithm.loss` over the images of the update, on all processes, and over the trained
    steps, times `share`. A pair that was drawn counts by its weight.
    """
    steps, metrics = experience.trained_steps, UpdateMetrics()
    batches = _batches(policy, experience, part, size)
    idle = [_idle_batch(experience, part, size)] * _missing_forwards(policy, experience, part, size, len(batches))
    anchors = algorithm.anchors(policy, [*batches, *idle])
    for batch, anchor in zip(batches, anchors[: len(batches)], strict=True):
        output = algorithm.loss(policy, batch, anchor)
        total = batch.weighted(output.loss).sum()
        scaler.scale(share * total / (part.images * len(steps))).backward()
        _record(metrics, batch, output)
    for batch, anchor in zip(idle, anchors[len(batches) :], strict=True):
        (algorithm.loss(policy, batch, anchor).loss.sum() * 0).backward()
    return metrics


def step_gradient(
    algorithm: Algorithm,
    policy: Policy,
    scaler: torch.amp.GradScaler,
    experience: Experience,
    size: int,
    rows: Tensor,
    step: int,
) -> Tensor:
    """The flat gradient (P,) of some images at one step, without the penalty towards the reference.

    Forwards have at most `size` images and are not filled, because nothing here has to replay bit for bit. Weights
    without a gradient count 0. The policy's own gradients are empty before and after.
    """
    trajectory = experience.trajectory
    only = torch.zeros(len(trajectory), trajectory.steps)
    only[:, step] = float(trajectory.trainable.sum())  # the loss is a mean over steps, here over one
    part, size = UpdatePart(rows, len(rows), only), min(size, len(rows))
    accumulate_gradient(algorithm.unregularized(), policy, scaler, experience, part, size)
    weights = policy.parameters()
    flat = [torch.zeros_like(each) if each.grad is None else each.grad for each in weights]
    for weight in weights:
        weight.grad = None
    return torch.cat([each.flatten().float() for each in flat]) / scaler.get_scale()


def _batches(policy: Policy, experience: Experience, part: UpdatePart, size: int) -> list[StepBatch]:
    chosen = None if part.weights is None else part.weights > 0
    pairs = pair_batches(part.rows, experience.trained_steps, size, mixed=policy.mixes_steps, chosen=chosen)
    return [experience.batch(part, rows, steps, size) for rows, steps in pairs]


def _missing_forwards(policy: Policy, experience: Experience, part: UpdatePart, size: int, made: int) -> int:
    """How many forwards other ranks make beyond those of this one, where all have to forward together."""
    return forward_count(part.equal_forwards, experience.trained_steps, size, policy.mixes_steps) - made


def _idle_batch(experience: Experience, part: UpdatePart, size: int) -> StepBatch:
    """A pair that is computed to no effect."""
    first = torch.tensor(experience.trained_steps[:1])
    return experience.batch(part, torch.zeros(1, dtype=torch.long), first, size)


@torch.no_grad()
def _record(metrics: UpdateMetrics, batch: StepBatch, output: LossOutput) -> None:
    weights = batch.weights
    pairs = len(batch) if weights is None else float(weights.sum())
    mean = loss.average(output.loss, weights)
    metrics.record(pairs, {"loss": mean, **output.means}, output.maxima)
