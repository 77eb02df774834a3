"""Draw the prompts of an epoch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from stepcredit.errors import InputError
from stepcredit.types import Prompt
from stepcredit.utils.seeds import Stream, epoch_generator

MAX_IMAGES = 10**7
"""Images per epoch at most."""


def draw_prompts(
    prompts: Sequence[Prompt],
    *,
    epoch: int,
    seed: int,
    count: int | None,
    order: Literal["fixed", "random"],
    images_per_prompt: int,
) -> list[Prompt]:
    """The prompts of one epoch, one entry per image. Equal arguments give equal prompts, also in a resumed run.

    Args:
        prompts: all prompts, at least one.
        epoch: at least 0; only used by `random`.
        seed: of the run, at least 0; only used by `random`.
        count: number of prompts per epoch; None for all.
        order: `fixed` uses the first `count` prompts in every epoch; `random` draws `count` with replacement, as DDPO.
        images_per_prompt: number of consecutive repetitions of each prompt.

    Returns:
        count * images_per_prompt prompts.

    Raises:
        InputError: fewer than `count` prompts with `fixed`, or more than MAX_IMAGES images.
    """
    count = len(prompts) if count is None else count
    if count * images_per_prompt > MAX_IMAGES:
        raise InputError(
            f"{count} prompts of {images_per_prompt} images each exceed {MAX_IMAGES} images per epoch: "
            "lower sample.prompts_per_epoch or sample.images_per_prompt"
        )
    if order == "random":
        rows = epoch_generator(seed, Stream.PROMPTS, epoch).integers(len(prompts), size=count).tolist()
    elif count > len(prompts):
        raise InputError(
            f"sample.prompts_per_epoch is {count} but the prompt source has only {len(prompts)}: "
            f"lower it, or set prompts.order=random to draw with replacement"
        )
    else:
        rows = range(count)
    return [prompts[row] for row in rows for _ in range(images_per_prompt)]
