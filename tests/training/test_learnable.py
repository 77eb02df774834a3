"""Configurations under which nothing can be learned are refused before the model is loaded."""

from __future__ import annotations

from typing import Any

import pytest

from stepcredit.config import TrainConfig
from stepcredit.errors import InputError
from stepcredit.training.learnable import require_advantages
from stepcredit.types import Prompt

FOUR = [Prompt(text) for text in "abcd"]
MIXTURE = {"components": [{"name": "warmth"}, {"name": "jpeg_compressibility", "standardize": "none"}]}


def config(images: int = 1, prompts: int | None = 2, order: str = "fixed", **sections: Any) -> TrainConfig:
    train = {"updates_per_epoch": 1, **sections.pop("train", {})}
    sample = {"images_per_prompt": images, "prompts_per_epoch": prompts}
    tree = {"sample": sample, "train": train, "prompts": {"source": "mine.txt", "order": order}, **sections}
    return TrainConfig.model_validate(tree)


@pytest.mark.parametrize(
    ("changes", "keys"),
    [
        ({}, ["sample.images_per_prompt", "train.advantage"]),
        ({"order": "shuffled"}, ["sample.images_per_prompt", "train.advantage"]),
        ({"prompts": None}, ["sample.images_per_prompt", "train.advantage"]),
        ({"order": "random", "prompts": 1}, ["sample.images_per_prompt"]),
        ({"prompts": 1, "train": {"advantage": "batch"}}, ["sample.images_per_prompt", "sample.prompts_per_epoch"]),
        ({"train": {"advantage": "running", "buffer_size": 1, "min_count": 1}}, ["train.buffer_size"]),
        ({"prompts": 1, "train": {"advantage": "running", "buffer_size": 2}}, ["sample.images_per_prompt"]),
        ({"train": {"advantage": "running"}, "reward": MIXTURE}, ["warmth", "sample.images_per_prompt", "standardize"]),
    ],
)
def test_runs_that_compare_no_images_are_refused(changes: dict[str, Any], keys: list[str]) -> None:
    with pytest.raises(InputError) as raised:
        require_advantages(config(**changes), FOUR)
    assert [key for key in keys if key not in str(raised.value)] == []


@pytest.mark.parametrize(
    ("changes", "source"),
    [
        ({"images": 2}, "abcd"),
        ({"images": 2, "prompts": 1}, "abcd"),
        ({"images": 2, "reward": MIXTURE}, "abcd"),
        ({"train": {"advantage": "running"}}, "abcd"),
        ({"prompts": 1, "train": {"advantage": "running"}}, "abcd"),
        ({"train": {"advantage": "batch"}}, "abcd"),
        ({"prompts": 4}, "abca"),
        ({"prompts": 3, "order": "shuffled"}, "abca"),
        ({"prompts": 9, "order": "shuffled"}, "abcd"),
        ({"prompts": 9, "order": "random"}, "abcd"),
    ],
)
def test_runs_that_compare_images_are_accepted(changes: dict[str, Any], source: str) -> None:
    require_advantages(config(**changes), [Prompt(text) for text in source])
