"""Refuse configurations under which every advantage is 0, so that a run would learn nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from stepcredit.config import TrainConfig
from stepcredit.errors import InputError
from stepcredit.prompts import draw_prompts
from stepcredit.types import Prompt

_MAX_EPOCHS = 100
"""Number of epochs that are searched for a repeated prompt."""


def require_advantages(config: TrainConfig, prompts: Sequence[Prompt]) -> None:
    """Check that images are compared with other images, so that their advantages can differ from 0.

    Args:
        prompts: the whole prompt source.

    Raises:
        InputError: no image of the run is compared with another one. The message names the keys to change.
    """
    train = config.train
    if (config.images_per_epoch or len(prompts) * config.sample.images_per_prompt) == 1 and _needs_batch(config):
        raise InputError(
            f"an epoch has one image, and train.advantage={train.advantage} compares the images of an epoch, so "
            "nothing would be learned: raise sample.images_per_prompt or sample.prompts_per_epoch"
        )
    if config.sample.images_per_prompt > 1 or _has_groups(config, prompts):
        return
    if train.advantage == "group":
        raise InputError(
            "sample.images_per_prompt is 1, and train.advantage=group compares the images of a prompt, so nothing "
            "would be learned: raise sample.images_per_prompt to 2 or more (4 to 24 are usual), or set "
            "train.advantage=running or batch"
        )
    if train.advantage == "running" and train.buffer_size == train.min_count == 1:
        raise InputError(
            "train.buffer_size is 1, so train.advantage=running compares every image with itself, and nothing would be "
            "learned: raise train.buffer_size (32 is usual)"
        )
    for component in config.reward.components:
        if component.weight and component.standardize == "prompt":
            raise InputError(
                f"sample.images_per_prompt is 1, and the component '{component.called}' of the reward is standardized "
                "over the images of a prompt, so it would always be 0: raise sample.images_per_prompt, or set "
                "standardize of the component to fixed or none"
            )


def _needs_batch(config: TrainConfig) -> bool:
    """Whether images are compared only with images of the same epoch."""
    train = config.train
    return train.advantage != "running" or train.min_count > train.buffer_size


def _has_groups(config: TrainConfig, prompts: Sequence[Prompt]) -> bool:
    """Whether an epoch has several images of a prompt although `images_per_prompt` is 1."""
    order, count = config.prompts.order, config.sample.prompts_per_epoch or len(prompts)
    unique = len({prompt.text for prompt in prompts}) == len(prompts)
    if unique and order != "random" and count <= len(prompts):
        return False
    epochs = range(1 if order == "fixed" else min(max(config.train.epochs, 1), _MAX_EPOCHS))
    return any(_repeats(config, prompts, epoch) for epoch in epochs)


def _repeats(config: TrainConfig, prompts: Sequence[Prompt], epoch: int) -> bool:
    drawn = draw_prompts(
        prompts,
        epoch=epoch,
        seed=config.run.seed,
        count=config.sample.prompts_per_epoch,
        order=config.prompts.order,
        images_per_prompt=1,
    )
    return max(Counter(prompt.text for prompt in drawn).values()) > 1
