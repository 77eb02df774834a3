"""How the rollouts of a run sample: for training, and for grids and samples."""

from __future__ import annotations

import math

from stepcredit.algorithms.base import Needs
from stepcredit.algorithms.minibatch import microbatch
from stepcredit.config import SampleSection, TrainConfig
from stepcredit.types import Plan

_ROUNDING = 1e-9
"""0.29 of 100 steps are 29, although 0.29 * 100 is below 29 in floating point."""


def training_plan(config: TrainConfig, needs: Needs, images: int, epoch: int = 0) -> Plan:
    """The plan of an epoch of `images` images, for an algorithm with these needs.

    With `sample.sde_window_size` w, only w steps draw noise and are trained; every `sample.sde_window_every` epochs the
    window moves one step on, and from the last step back to the first (MixGRPO, arXiv 2507.21802).
    """
    sample = config.sample
    noisy = noisy_steps(sample, epoch) if draws_noise(needs, sample) else range(0)
    fraction = config.train.timestep_fraction
    trained = None if fraction == 1 else max(math.floor(sample.steps * fraction + _ROUNDING), 1)
    return Plan(sample.steps, noisy, _batch(config, images), needs.density, trained)


def draws_noise(needs: Needs, sample: SampleSection) -> bool:
    """Whether training rollouts draw noise: as `sample.stochastic` says, by default if the algorithm needs it."""
    return sample.eta > 0 and (needs.density if sample.stochastic is None else sample.stochastic)


def evaluation_plan(config: TrainConfig, images: int) -> Plan:
    """The plan of grids and samples: `sample.evaluation_steps` steps, with noise as `sample.evaluation_noise` says."""
    sample = config.sample
    steps = sample.evaluation_steps or sample.steps
    noisy = {None: None, True: range(steps), False: range(0)}[sample.evaluation_noise]
    return Plan(steps, noisy, _batch(config, images))


def noisy_steps(sample: SampleSection, epoch: int) -> range:
    """The steps of `epoch` that draw noise."""
    if sample.sde_window_size is None:
        return range(sample.steps)
    size = min(sample.sde_window_size, sample.steps)
    moved = 0 if sample.sde_window_every is None else epoch // sample.sde_window_every
    places = sample.steps - size + 1
    start = (min(sample.sde_window_start, places - 1) + moved) % places
    return range(start, start + size)


def _batch(config: TrainConfig, images: int) -> int:
    return config.sample.batch or microbatch(config.train, images)
