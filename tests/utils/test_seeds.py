"""Every sample of a run has its own seed, whatever asks for it."""

from __future__ import annotations

import torch

from stepcredit.utils.seeds import Stream, epoch_generator, sample_seeds


def test_a_seed_depends_on_the_samples_place_alone() -> None:
    whole = sample_seeds(7, Stream.TRAINING, 0, 12)
    assert sample_seeds(7, Stream.TRAINING, 4, 3) + sample_seeds(7, Stream.TRAINING, 7, 5) == whole[4:]


def test_seeds_differ_between_samples_streams_and_runs() -> None:
    drawn = [seed for run in (0, 1) for stream in Stream for seed in sample_seeds(run, stream, 0, 200)]
    assert len(set(drawn)) == len(drawn)


def test_torch_takes_every_seed() -> None:
    for seed in sample_seeds(2**31, Stream.EVALUATION, 10**6, 100):
        assert torch.Generator().manual_seed(seed).initial_seed() == seed


def test_seeds_are_the_same_in_every_release() -> None:
    assert sample_seeds(0, Stream.TRAINING, 0, 2) == [7896617691693857887, 4324601099084218337]


def test_an_epochs_shuffle_can_be_drawn_again() -> None:
    first, again, next_epoch, other_run = (
        epoch_generator(run, Stream.SHUFFLE, epoch).permutation(64).tolist()
        for run, epoch in ((3, 5), (3, 5), (3, 6), (4, 5))
    )
    assert first == again
    assert len({tuple(order) for order in (first, next_epoch, other_run)}) == 3


def test_prompts_and_shuffles_never_share_a_state() -> None:
    states = [
        epoch_generator(0, stream, epoch).bit_generator.state["state"]["state"]
        for stream in (Stream.SHUFFLE, Stream.PROMPTS)
        for epoch in range(50)
    ]
    assert len(set(states)) == 100
