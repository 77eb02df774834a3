"""Which prompts an epoch is trained on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from stepcredit.errors import InputError
from stepcredit.types import Prompt
from stepcredit.utils.seeds import Stream, epoch_generator

MOST_IMAGES = 10**7
"""Images of an epoch."""


def draw_prompts(
    prompts: Sequence[Prompt],
    *,
    epoch: int,
    seed: int,
    count: int | None,
    order: Literal["fixed", "random"],
    images_per_prompt: int,
) -> list[Prompt]:
    """The prompts of one epoch, one entry per image: a pure function of its arguments, so a resumed run draws the same.

    Args:
        prompts: the source, not empty.
        epoch: at least 0; matters for `random` only.
        seed: of the run, at least 0; matters for `random` only.
        count: prompts of an epoch, None for as many as there are.
        order: `fixed` takes the first `count` every epoch; `random` draws `count` with replacement, as DDPO does.
        images_per_prompt: how often each drawn prompt is repeated, consecutively.

    Returns:
        count * images_per_prompt prompts.

    Raises:
        InputError: `fixed` and fewer than `count` prompts (repeating them would weigh some more than others unasked),
            or more than MOST_IMAGES in all.
    """
    count = len(prompts) if count is None else count
    if count * images_per_prompt > MOST_IMAGES:
        raise InputError(
            f"{count} prompts of {images_per_prompt} images each are more than {MOST_IMAGES} images an epoch: "
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
