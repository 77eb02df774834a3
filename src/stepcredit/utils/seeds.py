"""Seeds of a run's samples: every image has its own, fixed by the run's seed and the image's place in the run."""

from __future__ import annotations

from enum import IntEnum

import numpy as np


class Stream(IntEnum):
    """What a random number is for; streams of one run never overlap."""

    TRAINING = 0
    EVALUATION = 1
    SHUFFLE = 2
    PROMPTS = 3
    CREDIT = 4
    STEPS = 5
    ALGORITHM = 6


def sample_seeds(run_seed: int, stream: Stream, start: int, count: int) -> list[int]:
    """Seeds of samples `start` to `start + count - 1` of a stream, each a 63-bit integer.

    A sample's noise depends on nothing else, so batch size, number of processes and a resume leave the data unchanged.
    """
    return [_seed(run_seed, stream, index) for index in range(start, start + count)]


def epoch_generator(run_seed: int, stream: Stream, epoch: int) -> np.random.Generator:
    """The generator of one epoch: SHUFFLE orders its images, PROMPTS draws its prompts, STEPS its steps.

    CREDIT is what a rule that learns draws: its first state as of epoch 0, then whatever its n-th epoch needs as of n.
    """
    return np.random.default_rng([run_seed, int(stream), epoch])


def _seed(run_seed: int, stream: Stream, index: int) -> int:
    state = np.random.SeedSequence([run_seed, int(stream), index]).generate_state(1, np.uint64)
    return int(state[0] >> np.uint64(1))
