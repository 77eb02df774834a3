"""Draw the prompts of an epoch."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from stepcredit.config import PromptOrder
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
    order: PromptOrder,
    images_per_prompt: int,
) -> list[Prompt]:
    """The prompts of one epoch, one entry per image. Equal arguments give equal prompts, also in a resumed run.

    Args:
        prompts: all prompts, at least one.
        epoch: at least 0; not used by `fixed`.
        seed: of the run, at least 0; not used by `fixed`.
        count: number of prompts per epoch; None for all.
        order: `shuffled` goes through all prompts in random order before it uses one again: epoch 0 uses the first
            `count` of them, epoch 1 the next ones, and so on. An epoch repeats a prompt only if `count` exceeds the
            number of prompts. If it equals that number, they keep their own order. `fixed` uses the first `count`
            prompts in every epoch. `random` draws `count` with replacement, as DDPO does.
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
    elif order == "shuffled" and count != len(prompts):
        rows = _shuffled_rows(len(prompts), count, seed, epoch)
    elif count > len(prompts):
        raise InputError(
            f"sample.prompts_per_epoch is {count} but the prompt source has only {len(prompts)}: lower it, or set "
            "prompts.order=shuffled to use prompts more than once"
        )
    else:
        rows = range(count)
    return [prompts[row] for row in rows for _ in range(images_per_prompt)]


def describe_draw(total: int, *, count: int | None, order: PromptOrder, epochs: int, source: str) -> str:
    """One line that says how many of the `total` prompts of `source` a run of `epochs` epochs uses, and in which order.

    >>> describe_draw(40, count=8, order="fixed", epochs=10, source="mine.txt")
    'prompts: the first 8 of the 40 prompts of mine.txt in every epoch; prompts.order=shuffled uses all of them'
    """
    count = total if count is None else count
    of_source = f"the {total} {'prompts' if total > 1 else 'prompt'} of {source}"
    if order == "random":
        return f"prompts: {count} drawn at random from {of_source} in every epoch"
    if count == total:
        return f"prompts: all of {of_source} in every epoch"
    if order == "fixed":
        return f"prompts: the first {count} of {of_source} in every epoch; prompts.order=shuffled uses all of them"
    used = min(total, count * epochs)
    pace = f"in shuffled order, {count} per epoch"
    if used < total:
        return (
            f"prompts: {used} of {of_source} {pace}; more epochs or a higher sample.prompts_per_epoch use more of them"
        )
    return f"prompts: all of {of_source} {pace}, {_times(count * epochs / total)} in {epochs} epochs"


def _times(ratio: float) -> str:
    """How often each prompt is used: with one decimal below 10, and without from there on."""
    return "once" if ratio == 1 else f"{round(ratio, 1):g} times" if ratio < 10 else f"{ratio:,.0f} times"


def seen_prompts(
    prompts: Sequence[Prompt], *, epochs: int, seed: int, count: int | None, order: PromptOrder
) -> list[Prompt]:
    """The prompts that a run of `epochs` epochs trains on, in their order; all of them with `random`."""
    count = len(prompts) if count is None else count
    if order == "fixed":
        return list(prompts[:count])
    if order == "random" or count * epochs >= len(prompts):
        return list(prompts)
    rows = _permutation(seed, 0, len(prompts))[: count * max(epochs, 1)]
    return [prompts[row] for row in sorted(rows.tolist())]


def _shuffled_rows(total: int, count: int, seed: int, epoch: int) -> list[int]:
    """The rows of an epoch: entries epoch * count to (epoch + 1) * count of concatenated permutations of the rows.

    A permutation that begins within an epoch is rearranged so that the epoch has no row twice. It then depends on the
    permutation before it, back to one that begins together with an epoch.
    """
    start, stop = epoch * count, (epoch + 1) * count
    first, last = start // total, (stop - 1) // total
    aligned = count // math.gcd(total, count)  # every so many permutations, one begins with an epoch
    order = np.empty(0, dtype=np.int64)
    rows: list[np.ndarray] = []
    for number in range(first // aligned * aligned, last + 1):
        fresh = _permutation(seed, number, total)
        before = number * total % count  # rows of the epoch that the permutation before provides
        if before and count <= total:
            used = np.isin(fresh, order[-before:])
            head = np.flatnonzero(~used)[: count - before]
            fresh = np.concatenate([fresh[head], np.delete(fresh, head)])
        order = fresh
        if number >= first:
            rows.append(order)
    drawn: list[int] = np.concatenate(rows)[start - first * total : stop - first * total].tolist()
    return drawn


def _permutation(seed: int, number: int, total: int) -> np.ndarray:
    return epoch_generator(seed, Stream.PROMPTS, number).permutation(total)
