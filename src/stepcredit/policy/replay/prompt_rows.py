"""Values that hold something of each of several prompts: what in them belongs to which, held once, cut to any rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten

from stepcredit.errors import InputError


@dataclass(frozen=True)
class Rows:
    """Rows of which each belongs to one prompt.

    Attributes:
        held: a tensor or list. Where all prompts have equal rows, as with one negative prompt, it holds that row alone.
        places: where in `held` the row of each prompt is; as many blocks of them as the batch is repeated.
        prompts: how many.
    """

    held: Any
    places: tuple[int, ...]
    prompts: int

    def of(self, rows: Sequence[int]) -> Any:
        """A value for a batch of these prompts, in the memory layout that selecting them from the whole would give."""
        blocks = range(0, len(self.places), self.prompts)
        wanted = [self.places[block + row] for block in blocks for row in rows]
        if isinstance(self.held, list):
            return [self.held[place] for place in wanted]
        return _taken(self.held, wanted)


@dataclass(frozen=True)
class Whole:
    """A part that is the same for any batch."""

    value: Any

    def of(self, rows: Sequence[int]) -> Any:
        return self.value


def kind(value: Any) -> Any:
    """How a value is built: containers, rank and dtype of its tensors, and whether its lists are empty."""
    leaves, spec = tree_flatten(value, is_leaf=lambda part: isinstance(part, list))
    return str(spec), tuple(
        (leaf.ndim, leaf.dtype) if isinstance(leaf, Tensor) else (type(leaf).__name__, leaf == []) for leaf in leaves
    )


def layout(value: Any, longer: Any, count: int) -> Any:
    """How often the batch is repeated along the first axis of each part: 0 where it is not there; tuples for tuples.

    Args:
        value: made for `count` prompts.
        longer: made for one more.
    """
    if isinstance(value, tuple):
        return tuple(layout(*pair, count) for pair in zip(value, longer, strict=True))
    if isinstance(value, list) or (isinstance(value, Tensor) and value.ndim > 0):
        grown = len(longer) - len(value)
        if grown:
            if grown * count != len(value):
                raise InputError(
                    f"encode_prompt returned {len(value)} rows for {count} prompts: they cannot be told apart"
                )
            return grown
        if isinstance(value, list):
            return [layout(*pair, count) for pair in zip(value, longer, strict=True)]
    return 0


def packed(value: Any, laid_out: Any, count: int) -> Any:
    """`value` with `Rows` and `Whole` for its parts, given its `layout`."""
    if isinstance(laid_out, tuple | list):
        parts = [packed(part, inner, count) for part, inner in zip(value, laid_out, strict=True)]
        return parts if isinstance(laid_out, list) else tuple(parts)
    if laid_out == 0:
        return Whole(value)
    first = [row for block in range(laid_out) for row in _first(value, block * count, count)]
    distinct = {row: place for place, row in enumerate(dict.fromkeys(first))}
    held = value if len(distinct) == len(value) else _held(value, list(distinct))
    return Rows(held, tuple(distinct[row] for row in first), count)


def selected(value: Any, rows: Sequence[int]) -> Any:
    """What was `packed`, for a batch of some of its prompts."""
    if isinstance(value, tuple | list):
        parts = [selected(part, rows) for part in value]
        return parts if isinstance(value, list) else tuple(parts)
    return value.of(rows)


def _first(value: Any, start: int, count: int) -> Sequence[int]:
    """For each row of a block, where one that is equal to it comes first: the start if all are alike, else itself."""
    block = range(start, start + count)
    return [start] * count if all(_equal(value[start], value[row]) for row in block[1:]) else block


def _equal(one: Any, other: Any) -> bool:
    """Whether two entries are the same to the last bit and in memory layout."""
    if not (isinstance(one, Tensor) and isinstance(other, Tensor)):
        return one is other
    alike = one.shape == other.shape and one.dtype == other.dtype and one.stride() == other.stride()
    return alike and torch.equal(_bits(one), _bits(other))


def _bits(tensor: Tensor) -> Tensor:
    """0 and -0 apart, and NaN like itself."""
    return tensor.reshape(-1).view(torch.uint8)


def _held(value: Any, rows: Sequence[int]) -> Any:
    """Some rows alone: copied, because a view would keep all of them."""
    if isinstance(value, Tensor):
        return _taken(value, rows)
    entries = [value[row] for row in rows]
    return [entry.clone() if isinstance(entry, Tensor) and entry.is_contiguous() else entry for entry in entries]


def _taken(tensor: Tensor, rows: Sequence[int]) -> Tensor:
    return tensor[torch.tensor(rows).to(tensor.device, non_blocking=tensor.is_cuda)]
