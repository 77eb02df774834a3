"""Captions of the composition world: their grammar, and the split into training and evaluation."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from functools import cache
from typing import Literal

import numpy as np

from stepcredit.errors import InputError, shortened
from stepcredit.shapes.composition.claims import COLORS, SHAPES, TASKS, Claim, all_claims, has_unseen_pair

Split = Literal["training", "held_out", "unseen_pairs"]
SPLITS: tuple[Split, ...] = ("training", "held_out", "unseen_pairs")

GRAMMAR = (
    "OBJECT, OBJECT and OBJECT, two|three|four SHAPEs, or OBJECT [to the] left of|right of|above|over|below|under "
    f"OBJECT, where OBJECT is a [{'|'.join(COLORS)}] {'|'.join(SHAPES)}; 'a picture of' or 'there is' may come first"
)
"""The captions that `parse` understands. Two objects have different shapes. Either both have a color or neither has."""

_PHRASES: Mapping[str, tuple[str, str]] = {
    "left of": ("left of", "to the left of"),
    "right of": ("right of", "to the right of"),
    "above": ("above", "over"),
    "below": ("below", "under"),
}
_PLURALS = {"circle": "circles", "square": "squares", "triangle": "triangles", "cross": "crosses"}
_NUMBERS = {2: "two", 3: "three", 4: "four"}
_LARGE_TASKS = ("position", "color_attribution")
_HELD_OUT_EVERY = 6


def captions(claim: Claim) -> list[str]:
    """Every caption of a claim, in a fixed order.

    >>> from stepcredit.shapes.composition.claims import Claim, Named
    >>> captions(Claim("colors", (Named("circle", "red"),)))
    ['a red circle', 'a picture of a red circle', 'there is a red circle']
    """
    if claim.task == "counting":
        contents = [f"{_NUMBERS[len(claim.objects)]} {_PLURALS[claim.objects[0].shape]}"]
    else:
        names = [f"a {named.color} {named.shape}" if named.color else f"a {named.shape}" for named in claim.objects]
        joints = ["and"] if claim.relation is None else _PHRASES[claim.relation]
        contents = [f" {joint} ".join(names) for joint in joints]
    there = "there are" if claim.task == "counting" else "there is"
    return [f"{prefix}{content}" for prefix in ("", "a picture of ", f"{there} ") for content in contents]


def parse(caption: str) -> Claim:
    """The claim of a caption.

    Raises:
        InputError: the caption does not follow GRAMMAR.
    """
    try:
        return _claims_by_caption()[caption]
    except KeyError:
        raise InputError(
            f"{shortened(repr(caption))} is not a caption of the composition world: write {GRAMMAR}"
        ) from None


def is_caption(text: str) -> bool:
    """Whether `parse` understands a text."""
    return text in _claims_by_caption()


def split_of(caption: str) -> Split:
    """The set that a caption belongs to.

    - `unseen_pairs`: its claim combines words that no training caption combines.
    - `held_out`: one in six of the others. For `position` and `color_attribution`, which have many claims, all captions
      of a claim are held out. For the other tasks single captions are, and training has their claims in other words.
    - `training`: all others.

    Raises:
        InputError: as `parse`.
    """
    claim = parse(caption)
    if has_unseen_pair(claim):
        return "unseen_pairs"
    text = repr(claim) if claim.task in _LARGE_TASKS else caption
    return "held_out" if zlib.crc32(text.encode()) % _HELD_OUT_EVERY == 0 else "training"


def sample_caption(rng: np.random.Generator, split: Split, task: str | None = None) -> str:
    """A random caption of a set.

    Args:
        task: a word of TASKS. None draws one; `unseen_pairs` has captions of three tasks only.

    Raises:
        ValueError: the set has no caption of that task.
    """
    by_task = _captions_by_task(split)
    choices = by_task[str(rng.choice(sorted(by_task))) if task is None else task] if task in (None, *by_task) else ()
    if not choices:
        raise ValueError(f"{split} has no caption of the task {task}")
    return choices[int(rng.integers(len(choices)))]


def distinct_captions(count: int, split: Split, seed: int) -> list[str]:
    """`count` different captions of a set, its tasks in turn as long as they have captions left.

    Raises:
        ValueError: the set has fewer captions.
    """
    rng = np.random.default_rng(seed)
    pools = [list(rng.permutation(texts)) for _, texts in sorted(_captions_by_task(split).items())]
    if sum(map(len, pools)) < count:
        raise ValueError(f"{split} has {sum(map(len, pools))} captions, but {count} were asked for")
    found: list[str] = []
    while len(found) < count:
        found += [str(pool.pop()) for pool in pools if pool]
    return found[:count]


@cache
def _claims_by_caption() -> dict[str, Claim]:
    return {text: claim for task in TASKS for claim in all_claims(task) for text in captions(claim)}


@cache
def _captions_by_task(split: Split) -> dict[str, tuple[str, ...]]:
    found: dict[str, list[str]] = {}
    for text, claim in _claims_by_caption().items():
        if split_of(text) == split:
            found.setdefault(claim.task, []).append(text)
    return {task: tuple(texts) for task, texts in found.items()}
