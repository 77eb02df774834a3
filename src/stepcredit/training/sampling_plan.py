"""How the rollouts of a run trajectory: for training, and for grids and samples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from stepcredit.config import SampleSection, TrainConfig, TrainSection
from stepcredit.errors import InputError
from stepcredit.types import Plan


def training_plan(config: TrainConfig, images: int, epoch: int = 0) -> Plan:
    """The trajectory of an epoch of `images` images.

    With `sample.sde_window_size` w, only w steps draw noise and are trained; every `sample.sde_window_every` epochs the
    window moves one step on, and from the last step back to the first (MixGRPO, arXiv 2507.21802).
    """
    sample = config.sample
    return Plan(sample.steps, noisy_steps(sample, epoch), sample.batch or microbatch(config.train, images))


def evaluation_plan(config: TrainConfig, images: int) -> Plan:
    """The trajectory of grids and samples: `sample.evaluation_steps` steps, with noise as `sample.evaluation_noise` says."""
    sample = config.sample
    steps = sample.evaluation_steps or sample.steps
    noisy = {None: None, True: range(steps), False: range(0)}[sample.evaluation_noise]
    return Plan(steps, noisy, training_plan(config, images).batch)


def microbatch(train: TrainSection, images: int) -> int:
    """(image, step) pairs per training forward of an epoch of `images` images: `train.microbatch`, at most `images`.

    By default those of the largest update at one step. Raises InputError for `auto`, which `policy.examination` turns
    into a number.
    """
    if train.microbatch == "auto":
        raise InputError("train.microbatch=auto has to be measured first: `stepcredit train` does; give a number")
    return min(train.microbatch or largest_update(train, images), images)


def largest_update(train: TrainSection, images: int) -> int:
    """Images of the largest update of an epoch of `images` images."""
    return -(-images // train.updates_per_epoch)


def noisy_steps(sample: SampleSection, epoch: int) -> range:
    """The steps of `epoch` that draw noise."""
    if sample.sde_window_size is None:
        return range(sample.steps)
    size = min(sample.sde_window_size, sample.steps)
    moved = 0 if sample.sde_window_every is None else epoch // sample.sde_window_every
    places = sample.steps - size + 1
    start = (min(sample.sde_window_start, places - 1) + moved) % places
    return range(start, start + size)


def image_groups(count: int, updates: int, rng: np.random.Generator) -> Iterator[Tensor]:
    """A random partition of `count` images into `updates` groups that differ in size by at most one, rows ascending."""
    if updates > count:
        raise InputError(f"train.updates_per_epoch is {updates} but the epoch has only {count} images")
    for rows in np.array_split(rng.permutation(count), updates):
        yield torch.from_numpy(np.sort(rows))


def pair_batches(
    rows: Tensor, steps: Sequence[int], size: int, *, mixed: bool, chosen: Tensor | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """All pairs of `rows` and `steps` as (rows (n,), steps (n,)), n <= `size`, step by step.

    Args:
        mixed: whether a batch may hold several steps; otherwise there may be a short batch in every step.
        chosen: (B, T) bool, which pairs to take; None is all of them.
    """
    at, images = torch.cartesian_prod(torch.tensor(steps), rows).view(-1, 2).unbind(1)
    if chosen is not None:
        kept = chosen[images, at]
        at, images = at[kept], images[kept]
    if mixed:
        yield from zip(images.split(size), at.split(size), strict=True)
        return
    for step in steps:
        for batch in images[at == step].split(size):
            if len(batch):
                yield batch, torch.full_like(batch, step)


def entries(values: Tensor, rows: Tensor, steps: Tensor) -> Tensor:
    """`values[rows, steps]` where `values` are; nobody waits for the indices to get there."""
    device, aside = values.device, values.device.type == "cuda"
    return values[rows.to(device, non_blocking=aside), steps.to(device, non_blocking=aside)]


def filled(batch: Tensor, size: int) -> Tensor:
    """`batch` with copies of its last entry up to `size`: kernels round by batch size, so replays keep to one size."""
    return torch.cat([batch, batch[-1:].expand(size - len(batch))])
