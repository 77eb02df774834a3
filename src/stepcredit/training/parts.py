"""The parts that a training loop puts together, and whether they fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from stepcredit.algorithms.base import Algorithm, Needs
from stepcredit.algorithms.sampling_plan import draws_noise
from stepcredit.config import SampleSection, TrainConfig
from stepcredit.distributed.process_group import ProcessGroup
from stepcredit.errors import InputError
from stepcredit.rewards import CheckedReward
from stepcredit.types import CreditAssigner, MeasuringCredit, Policy, Prompt


@dataclass(frozen=True)
class Parts:
    """What a run trains, and with what.

    Attributes:
        reward: of the images; it carries the name that errors use.
        prompts: the whole prompt source; each epoch draws from it.
    """

    policy: Policy
    reward: CheckedReward
    credit: CreditAssigner
    algorithm: Algorithm
    prompts: Sequence[Prompt]


def require_compatible(config: TrainConfig, parts: Parts, processes: ProcessGroup, images: int) -> None:
    """Refuse what the parts cannot do together in an epoch of `images` images.

    Raises:
        InputError: with the keys to change.
    """
    _require_images(config, processes, images)
    require_noise(config.train.algorithm, parts.algorithm.needs, config.sample)
    if parts.credit.needs_density and not draws_noise(parts.algorithm.needs, config.sample):
        raise InputError(
            f"credit {config.credit.name} reads the noise of the steps, but rollouts for algorithm "
            f"{config.train.algorithm} draw none: set sample.stochastic=true or choose another credit rule"
        )
    if processes.world_size > 1 and isinstance(parts.credit, MeasuringCredit):
        raise InputError(
            f"credit {config.credit.name} measures gradients on one process, but there are {processes.world_size}: "
            "start one process, or choose another credit rule"
        )
    if processes.sharded and parts.algorithm.needs.old_weights:
        raise InputError(
            f"algorithm {config.train.algorithm} keeps a copy of the old weights, which model.shard does not support: "
            "set model.shard=false"
        )


def require_noise(name: str, needs: Needs, sample: SampleSection) -> None:
    """InputError if the algorithm needs log-probabilities and no step of the rollout draws noise."""
    if needs.density and not draws_noise(needs, sample):
        key = "sample.stochastic=true" if sample.stochastic is False else "sample.eta above 0"
        raise InputError(f"algorithm {name} needs noise for its log-probabilities: set {key}")


def _require_images(config: TrainConfig, processes: ProcessGroup, images: int) -> None:
    updates, count = config.train.updates_per_epoch, processes.world_size
    if updates > images:
        raise InputError(f"train.updates_per_epoch is {updates} but an epoch has only {images} images: lower it")
    if count > images:
        raise InputError(f"there are {count} processes but an epoch has only {images} images: start fewer processes")
    if processes.sharded and config.train.sampled_steps is not None:
        raise InputError("model.shard and train.sampled_steps exclude each other: leave one of them out")
    if processes.sharded and images % count:
        raise InputError(
            f"model.shard needs the same number of images on every process, but {images} images cannot be divided by "
            f"{count} processes"
        )
