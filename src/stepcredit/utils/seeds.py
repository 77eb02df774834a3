"""Random seeds of a run. Each image has its own, determined by the run's seed and the image's index."""

from __future__ import annotations

from enum import IntEnum

import numpy as np


class Stream(IntEnum):
    """The purpose of a random number. The streams of a run are independent."""

    TRAINING = 0
    EVALUATION = 1
    SHUFFLE = 2
    PROMPTS = 3
    CREDIT = 4
    STEPS = 5
    ALGORITHM = 6


def sample_seeds(run_seed: int, stream: Stream, start: int, count: int) -> list[int]:
    """63-bit seeds of the samples `start` to `start + count - 1` of a stream.

    The noise of a sample depends on its seed only, so batch size, number of processes and resuming do not change it.
    """
    return [_seed(run_seed, stream, index) for index in range(start, start + count)]


def epoch_generator(run_seed: int, stream: Stream, epoch: int) -> np.random.Generator:
    """The random generator of an epoch: SHUFFLE orders its images, PROMPTS draws its prompts, STEPS its steps.

    CREDIT is for credit rules that learn: epoch 0 initializes their state, and epoch n is for their n-th epoch.
    """
    return np.random.default_rng([run_seed, int(stream), epoch])


def _seed(run_seed: int, stream: Stream, index: int) -> int:
    state = np.random.SeedSequence([run_seed, int(stream), index]).generate_state(1, np.uint64)
    return int(state[0] >> np.uint64(1))
