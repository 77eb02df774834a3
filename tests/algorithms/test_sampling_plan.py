"""How rollouts of a run trajectory: steps that draw noise, and how many images at a time."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from stepcredit.algorithms.base import Needs
from stepcredit.algorithms.minibatch import microbatch, pair_batches
from stepcredit.algorithms.sampling_plan import evaluation_plan, noisy_steps, training_plan
from stepcredit.config import SampleSection, TrainConfig, TrainSection
from stepcredit.errors import InputError
from stepcredit.maths.indexing import filled
from stepcredit.types import Plan

NEEDS = Needs(density=True)


def config(train: dict[str, Any] | None = None, **sample: Any) -> TrainConfig:
    return TrainConfig.model_validate({"sample": {"steps": 6, **sample}, "train": train or {}})


def starts(epochs: int, **sample: Any) -> list[int]:
    return [noisy_steps(SampleSection(steps=6, **sample), epoch).start for epoch in range(epochs)]


@pytest.mark.parametrize(
    ("window", "steps"),
    [
        ({}, range(6)),
        ({"sde_window_size": 2}, range(2)),
        ({"sde_window_size": 2, "sde_window_start": 3}, range(3, 5)),
        ({"sde_window_size": 1, "sde_window_start": 5}, range(5, 6)),
        ({"sde_window_size": 2, "sde_window_start": 5}, range(4, 6)),
        ({"sde_window_size": 2, "sde_window_start": 100}, range(4, 6)),
        ({"sde_window_size": 6, "sde_window_start": 3}, range(6)),
        ({"sde_window_size": 9, "sde_window_start": 3}, range(6)),
    ],
)
def test_the_window_lies_within_the_trajectory(window: dict[str, int], steps: range) -> None:
    for epoch in (0, 1, 7):
        assert noisy_steps(SampleSection(steps=6, **window), epoch) == steps


def test_the_window_moves_every_so_many_epochs_and_begins_again() -> None:
    assert starts(7, sde_window_size=3, sde_window_every=1) == [0, 1, 2, 3, 0, 1, 2]
    assert starts(7, sde_window_size=3, sde_window_every=2) == [0, 0, 1, 1, 2, 2, 3]
    assert starts(5, sde_window_size=4, sde_window_every=1, sde_window_start=1) == [1, 2, 0, 1, 2]
    assert starts(4, sde_window_size=4, sde_window_every=1, sde_window_start=50) == [2, 0, 1, 2]
    assert starts(3, sde_window_size=6, sde_window_every=1) == [0, 0, 0]


def test_the_window_is_always_as_long() -> None:
    for epoch in range(9):
        assert len(noisy_steps(SampleSection(steps=6, sde_window_size=4, sde_window_every=1), epoch)) == 4


@pytest.mark.parametrize(
    ("images", "updates", "asked", "size"),
    [
        (12, 4, None, 3),
        (13, 4, None, 4),
        (12, 1, None, 12),
        (12, 12, None, 1),
        (12, 4, 2, 2),
        (12, 4, 3, 3),
        (12, 4, 5, 5),
        (12, 4, 50, 12),
        (13, 4, 50, 13),
    ],
)
def test_pairs_of_a_training_forward(images: int, updates: int, asked: int | None, size: int) -> None:
    assert microbatch(TrainSection(updates_per_epoch=updates, microbatch=asked), images) == size


def test_as_many_images_are_sampled_at_once_as_are_trained_at_once() -> None:
    assert training_plan(config({"updates_per_epoch": 4}), NEEDS, 12).batch == 3
    assert training_plan(config({"updates_per_epoch": 4, "microbatch": 2}), NEEDS, 12).batch == 2
    assert training_plan(config({"updates_per_epoch": 4, "microbatch": 99}), NEEDS, 12).batch == 12
    assert training_plan(config({"updates_per_epoch": 4, "microbatch": 2}, batch=5), NEEDS, 12).batch == 5


def test_a_training_trajectory_without_a_window_draws_noise_in_every_step() -> None:
    assert training_plan(config(), NEEDS, 64, epoch=5) == Plan(6, range(6), 16)


def test_a_training_trajectory_has_the_window_of_its_epoch() -> None:
    moving = config(sde_window_size=2, sde_window_every=3, sde_window_start=1)
    assert [training_plan(moving, NEEDS, 64, epoch).noisy for epoch in (0, 2, 3)] == [
        range(1, 3),
        range(1, 3),
        range(2, 4),
    ]


@pytest.mark.parametrize(("noise", "noisy"), [(None, None), (True, range(6)), (False, range(0))])
def test_noise_of_grids_is_as_usual_or_as_asked(noise: bool | None, noisy: range | None) -> None:
    assert evaluation_plan(config(evaluation_noise=noise), 64) == Plan(6, noisy, 16)


def test_steps_of_grids() -> None:
    assert evaluation_plan(config(), 64).steps == 6
    assert evaluation_plan(config(evaluation_steps=9, evaluation_noise=True), 64) == Plan(9, range(9), 16)
    assert training_plan(config(evaluation_steps=9), NEEDS, 64).steps == 6


def test_a_window_is_for_training_only() -> None:
    assert evaluation_plan(config(sde_window_size=2), 64).noisy is None
    assert evaluation_plan(config(sde_window_size=2, evaluation_noise=True), 64).noisy == range(6)


def test_grids_are_sampled_in_the_batches_of_training() -> None:
    assert evaluation_plan(config({"updates_per_epoch": 4, "microbatch": 2}), 12).batch == 2
    assert evaluation_plan(config(batch=7), 12).batch == 7


PAIRS_OF_3_IMAGES = [
    (2, True, [([4, 6], [0, 0]), ([9, 4], [0, 2]), ([6, 9], [2, 2])]),
    (4, True, [([4, 6, 9, 4], [0, 0, 0, 2]), ([6, 9], [2, 2])]),
    (9, True, [([4, 6, 9, 4, 6, 9], [0, 0, 0, 2, 2, 2])]),
    (2, False, [([4, 6], [0, 0]), ([9], [0]), ([4, 6], [2, 2]), ([9], [2])]),
    (9, False, [([4, 6, 9], [0, 0, 0]), ([4, 6, 9], [2, 2, 2])]),
]


@pytest.mark.parametrize(("size", "mixed", "batches"), PAIRS_OF_3_IMAGES)
def test_pairs_in_batches(size: int, mixed: bool, batches: list[tuple[list[int], list[int]]]) -> None:
    found = pair_batches(torch.tensor([4, 6, 9]), [0, 2], size, mixed=mixed)
    assert [(rows.tolist(), steps.tolist()) for rows, steps in found] == batches


@pytest.mark.parametrize("mixed", [True, False])
def test_one_pair(mixed: bool) -> None:
    ((rows, steps),) = pair_batches(torch.tensor([3]), [1], 4, mixed=mixed)
    assert (rows.tolist(), steps.tolist()) == ([3], [1])


def test_a_short_batch_is_filled_up_with_its_last_entry() -> None:
    assert filled(torch.tensor([4, 6]), 5).tolist() == [4, 6, 6, 6, 6]
    assert filled(torch.tensor([4, 6]), 2).tolist() == [4, 6]


def test_auto_has_to_be_measured() -> None:
    with pytest.raises(InputError, match=r"train\.microbatch=auto has to be measured"):
        microbatch(TrainSection(microbatch="auto"), 12)
    with pytest.raises(ValueError, match="microbatch"):
        TrainSection(microbatch="most")
