"""The self-check of a run: a replay of the first rollout must reproduce it, in the way in which training replays."""

from __future__ import annotations

from stepcredit.algorithms.minibatch import largest_update, microbatch
from stepcredit.config import TrainSection
from stepcredit.errors import InputError
from stepcredit.policy.checks.replay_check import replay_check
from stepcredit.training.parts import Parts
from stepcredit.types import Plan, Trajectory


def self_check(
    parts: Parts, section: TrainSection, trajectory: Trajectory, images: int, plan: Plan, *, halved: bool, sharded: bool
) -> list[str]:
    """Check the replays and gradients of a rollout, see `policy.checks.replay_check`.

    Args:
        images: number of images of this process.
        plan: how they were sampled.
        halved: whether the run has halved its micro-batch, so that training replays other batches than were sampled.
        sharded: whether weights are sharded over processes; gradients are then not compared with finite differences.

    Returns:
        The result and warnings, a line each.

    Raises:
        InputError: a check fails, or the micro-batch needs a pipeline that can replay several steps at a time.
    """
    policy, needs, trained_at_once = parts.policy, parts.algorithm.needs, microbatch(section, images)
    check = replay_check(
        policy,
        trajectory,
        plan.batch,
        plan.batch if halved else trained_at_once,
        tolerance=needs.replay_tolerance,
        gradient=not sharded,
    )
    largest = largest_update(section, images)
    if trained_at_once > largest and not policy.mixes_steps:
        raise InputError(
            f"train.microbatch is {trained_at_once} but an update has only {largest} images, and this pipeline replays "
            f"one step at a time ({policy.replay_mode}): give at most {largest}"
        )
    return [f"self-check: {check}", *(check.warnings if needs.density else [])]
