"""The gradient of one update, accumulated over forwards of many images and steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from stepcredit.algorithms.metrics import UpdateMetrics
from stepcredit.algorithms.minibatch import Experience, Pairs, Part
from stepcredit.config import TrainSection
from stepcredit.errors import InputError
from stepcredit.maths import gaussian, loss
from stepcredit.training.sampling_plan import filled, pair_batches
from stepcredit.types import Policy, Trajectory, Transition


class PairLoss(NamedTuple):
    """Of n (image, step) pairs.

    Attributes:
        surrogate: (n,), the clipped surrogate.
        log_prob: (n,), of the recorded step under the policy as it is.
        divergence: (n,), from the reference; None where there is none.
    """

    surrogate: Tensor
    log_prob: Tensor
    divergence: Tensor | None


def accumulate_gradient(
    policy: Policy,
    scaler: torch.amp.GradScaler,
    experience: Experience,
    part: Part,
    section: TrainSection,
    size: int,
) -> UpdateMetrics:
    """Backpropagate the loss of one update: `size` (image, step) pairs per forward, one graph alive at a time."""
    trajectory, statistics = experience.trajectory, UpdateMetrics()
    steps: list[int] = trajectory.trainable.nonzero().flatten().tolist()
    if not steps:
        raise InputError("every step of the trajectory has zero variance: nothing can be trained")
    chosen = None if part.weights is None else part.weights > 0
    batches = list(pair_batches(part.rows, steps, size, mixed=policy.mixes_steps, chosen=chosen))
    idle = [_first_pair(steps)] * (forwards(part.largest, steps, size, policy.mixes_steps) - len(batches))
    anchors: list[Tensor | None] = [None] * len(batches)
    if section.kl_weight:
        anchors = reference_anchors(policy, trajectory, [*batches, *idle], size, section)[: len(batches)]
    for (rows, at), anchor in zip(batches, anchors, strict=True):
        pairs = experience.pairs(rows, at, part.weights)
        found = pair_loss(replay(policy, trajectory, rows, at, size), pairs, section, anchor)
        total = pairs.weighted(with_penalty(found, section)).sum()
        scaler.scale(total / (part.images * len(steps))).backward()
        record(statistics, found, pairs, section, first=part.first)
    for rows, at in idle:
        (replay(policy, trajectory, rows, at, size).mean.sum() * 0).backward()
    return statistics


def step_gradient(
    policy: Policy,
    scaler: torch.amp.GradScaler,
    experience: Experience,
    section: TrainSection,
    size: int,
    rows: Tensor,
    step: int,
) -> Tensor:
    """The flat gradient (P,) of the surrogate of some images at one step; weights without a gradient count 0.

    Forwards have at most `size` images, and no more than there are: nothing here has to replay bit for bit.

    The policy's own gradients are empty before and after.
    """
    trajectory = experience.trajectory
    only = torch.zeros(len(trajectory), trajectory.steps)
    only[:, step] = float(trajectory.trainable.sum())  # the loss is a mean over steps, here over one
    plain = section.model_copy(update={"kl_weight": 0.0})
    accumulate_gradient(policy, scaler, experience, Part(rows, len(rows), only), plain, min(size, len(rows)))
    weights = policy.parameters()
    flat = [torch.zeros_like(each) if each.grad is None else each.grad for each in weights]
    for weight in weights:
        weight.grad = None
    return torch.cat([each.flatten().float() for each in flat]) / scaler.get_scale()


def forwards(images: int, steps: Sequence[int], size: int, mixed: bool) -> int:
    """How many forwards `accumulate_gradient` makes for a group of so many images."""
    return len(list(pair_batches(torch.arange(images), steps, size, mixed=mixed)))


@torch.no_grad()
def reference_anchors(
    policy: Policy, trajectory: Trajectory, batches: Sequence[tuple[Tensor, Tensor]], size: int, section: TrainSection
) -> list[Tensor | None]:
    """What the KL is taken to, by batch: the mean or the output of the reference.

    All batches of a group at once, because to swap the weights of a full adapter is slow.
    """
    with policy.reference():
        return [_anchor(replay(policy, trajectory, rows, at, size), section) for rows, at in batches]


def pair_loss(transition: Transition, pairs: Pairs, section: TrainSection, anchor: Tensor | None) -> PairLoss:
    """The loss of some images, each at its step, with its divergence if there is an `anchor`."""
    log_prob = gaussian.log_prob(pairs.following, transition.mean, transition.std)
    surrogate = loss.clipped_surrogate(log_prob, pairs.log_probs, pairs.advantages, section.clip_range)
    return PairLoss(surrogate, log_prob, None if anchor is None else divergence_from(anchor, transition, section))


def with_penalty(found: PairLoss, section: TrainSection) -> Tensor:
    """(n,): surrogate + kl_weight divergence."""
    return found.surrogate if found.divergence is None else found.surrogate + section.kl_weight * found.divergence


@torch.no_grad()
def record(statistics: UpdateMetrics, found: PairLoss, pairs: Pairs, section: TrainSection, *, first: bool) -> None:
    """Add the figures of one forward."""
    weights, old = pairs.weights, pairs.log_probs
    statistics.pairs.append(len(old) if weights is None else float(weights.sum()))
    statistics.loss.append(loss.average(with_penalty(found, section), weights))
    statistics.approx_kl.append(loss.approx_kl(found.log_prob, old, weights))
    statistics.clip_fraction.append(loss.clip_fraction(found.log_prob, old, section.clip_range, weights))
    if found.divergence is not None:
        statistics.reference_kl.append(loss.average(found.divergence, weights))
    if first:
        statistics.first_ratio.append(loss.ratio_max_deviation(found.log_prob, old))


def divergence_from(anchor: Tensor, transition: Transition, section: TrainSection) -> Tensor:
    """(n,): how far a step is from the reference in `section.kl_space`; `anchor` is one of `reference_anchors`."""
    if section.kl_space == "prediction":
        return loss.prediction_kl(transition.output, anchor)
    return gaussian.kl(transition.mean, anchor, transition.std)


def replay(policy: Policy, trajectory: Trajectory, rows: Tensor, steps: Tensor, size: int) -> Transition:
    """The transitions of the images `rows` at `steps`, replayed in a batch of `size`, which is at least as many.

    A short batch is filled up, so that it replays what was recorded at `size`, and the rest is cut off again before
    anything counts it or backpropagates.
    """
    transition = policy.replay(trajectory, filled(steps, size), filled(rows, size))
    return transition if len(rows) == size else transition.head(len(rows))


def _anchor(transition: Transition, section: TrainSection) -> Tensor:
    return transition.output if section.kl_space == "prediction" else transition.mean


def _first_pair(steps: Sequence[int]) -> tuple[Tensor, Tensor]:
    """What is replayed to no effect, where other processes have more to replay."""
    return torch.zeros(1, dtype=torch.long), torch.tensor(steps[:1])
