"""How the rollouts of a run walk: for training, and for grids and samples."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from stepcredit.config import SampleSection, TrainConfig, TrainSection
from stepcredit.types import Plan


def training_plan(config: TrainConfig, images: int, epoch: int = 0) -> Plan:
    """The walk of an epoch of `images` images.

    With `sample.sde_window_size` w, only w steps draw noise and are trained; every `sample.sde_window_every` epochs the
    window moves one step on, and from the last step back to the first (MixGRPO, arXiv 2507.21802).
    """
    sample = config.sample
    return Plan(sample.steps, noisy_steps(sample, epoch), sample.batch or microbatch(config.train, images))


def evaluation_plan(config: TrainConfig, images: int) -> Plan:
    """The walk of grids and samples: `sample.evaluation_steps` steps, with noise as `sample.evaluation_noise` says."""
    sample = config.sample
    steps = sample.evaluation_steps or sample.steps
    noisy = {None: None, True: range(steps), False: range(0)}[sample.evaluation_noise]
    return Plan(steps, noisy, training_plan(config, images).batch)


def microbatch(train: TrainSection, images: int) -> int:
    """Images per training forward: `train.microbatch`, at most those of the largest update of an epoch of `images`."""
    largest = -(-images // train.updates_per_epoch)
    return min(train.microbatch or largest, largest)


def noisy_steps(sample: SampleSection, epoch: int) -> range:
    """The steps of `epoch` that draw noise."""
    if sample.sde_window_size is None:
        return range(sample.steps)
    size = min(sample.sde_window_size, sample.steps)
    moved = 0 if sample.sde_window_every is None else epoch // sample.sde_window_every
    places = sample.steps - size + 1
    start = (min(sample.sde_window_start, places - 1) + moved) % places
    return range(start, start + size)


def row_batches(count: int, size: int) -> Iterator[Tensor]:
    """The rows 0 .. count - 1, `size` (at most all) at a time, the last batch filled up with its last row."""
    size = min(size, count)
    for start in range(0, count, size):
        yield torch.arange(start, start + size).clamp_max(count - 1)
