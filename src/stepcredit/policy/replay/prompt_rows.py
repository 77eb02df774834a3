"""Encodings of several prompts: which of their rows belong to which prompt, and batches of any of the prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten

from stepcredit.errors import InputError


@dataclass(frozen=True)
class BatchAxis:
    """Where a tensor or list holds the prompts.

    Attributes:
        axis: the axis along which the prompts lie; 0 for a list.
        repeat: how many times the axis holds all prompts.
    """

    axis: int
    repeat: int


@dataclass(frozen=True)
class PromptRows:
    """A tensor or list of which each row along one axis belongs to one prompt.

    Attributes:
        stored: the distinct rows. If all prompts have equal rows, as for one negative prompt, it is that row alone.
        index: the place in `stored` of each prompt's row, one block of `prompts` after the other: a batch may be
            repeated along the axis.
        prompts: number of prompts.
        axis: the axis of `stored` along which the rows lie.
    """

    stored: Any
    index: tuple[int, ...]
    prompts: int
    axis: int = 0

    def batch(self, rows: Sequence[int]) -> Any:
        """The value for a batch of these prompts, with the memory layout of an index into the original value."""
        blocks = range(0, len(self.index), self.prompts)
        places = [self.index[block + row] for block in blocks for row in rows]
        if isinstance(self.stored, list):
            return [self.stored[place] for place in places]
        return _take(self.stored, places, self.axis)


@dataclass(frozen=True)
class Shared:
    """A part that is the same for every batch."""

    value: Any

    def batch(self, rows: Sequence[int]) -> Any:
        return self.value


def structure(value: Any) -> Any:
    """A hashable description of containers, rank and dtype of tensors, and emptiness of lists."""
    leaves, spec = tree_flatten(value, is_leaf=lambda part: isinstance(part, list))
    return str(spec), tuple(
        (leaf.ndim, leaf.dtype) if isinstance(leaf, Tensor) else (type(leaf).__name__, leaf == []) for leaf in leaves
    )


def batch_axes(value: Any, longer: Any, count: int) -> Any:
    """The axis of each part that holds the prompts: the one that grows with their number.

    Args:
        value: the encoding of `count` prompts.
        longer: the encoding of `count` + 1 prompts, of which the last is one of the others.

    Returns:
        A BatchAxis per tensor or list, in the nesting of `value`; None for a part that does not depend on the number.

    Raises:
        InputError: a part has rows that cannot be assigned to prompts.
    """
    if isinstance(value, tuple):
        return tuple(batch_axes(*pair, count) for pair in zip(value, longer, strict=True))
    if isinstance(value, list):
        if len(longer) == len(value):
            return [batch_axes(*pair, count) for pair in zip(value, longer, strict=True)]
        return _batch_axis([len(value)], [len(longer)], count)
    return _batch_axis(list(value.shape), list(longer.shape), count) if isinstance(value, Tensor) else None


def _batch_axis(shape: Sequence[int], longer: Sequence[int], count: int) -> BatchAxis | None:
    grown = [axis for axis, (one, other) in enumerate(zip(shape, longer, strict=True)) if one != other]
    if not grown:
        return None
    axis = grown[0]
    repeat = longer[axis] - shape[axis]
    if len(grown) > 1 or repeat * count != shape[axis]:
        raise InputError(
            f"encode_prompt returned {tuple(shape)} for {count} prompts and {tuple(longer)} for {count + 1}, expected "
            "one axis that grows with the number of prompts: cannot assign the rows to prompts"
        )
    return BatchAxis(axis, repeat)


def pack(value: Any, axes: Any, count: int) -> Any:
    """`value` with each part as PromptRows or Shared, given its `batch_axes`."""
    if isinstance(axes, tuple | list):
        parts = [pack(part, inner, count) for part, inner in zip(value, axes, strict=True)]
        return parts if isinstance(axes, list) else tuple(parts)
    if axes is None:
        return Shared(value)
    rows = value if isinstance(value, list) else value.unbind(axes.axis)
    first = [row for block in range(axes.repeat) for row in _first_equal(rows, block * count, count)]
    distinct = {row: place for place, row in enumerate(dict.fromkeys(first))}
    stored = value if len(distinct) == len(rows) else _copy(value, list(distinct), axes.axis)
    return PromptRows(stored, tuple(distinct[row] for row in first), count, axes.axis)


def select(packed: Any, rows: Sequence[int]) -> Any:
    """The value for a batch of some of the prompts, from what `pack` returned."""
    if isinstance(packed, tuple | list):
        parts = [select(part, rows) for part in packed]
        return parts if isinstance(packed, list) else tuple(parts)
    return packed.batch(rows)


def _first_equal(value: Any, start: int, count: int) -> Sequence[int]:
    """For each row of a block: the block's first row if all its rows are equal, else the row itself."""
    block = range(start, start + count)
    return [start] * count if all(_equal(value[start], value[row]) for row in block[1:]) else block


def _equal(one: Any, other: Any) -> bool:
    """Whether two entries have the same bits and memory layout."""
    if not (isinstance(one, Tensor) and isinstance(other, Tensor)):
        return one is other
    same = one.shape == other.shape and one.dtype == other.dtype and one.stride() == other.stride()
    return same and torch.equal(_bits(one), _bits(other))


def _bits(tensor: Tensor) -> Tensor:
    """Bytes, because 0 == -0 and NaN != NaN."""
    return tensor.reshape(-1).view(torch.uint8)


def _copy(value: Any, rows: Sequence[int], axis: int) -> Any:
    """Some rows, copied because a view would keep all of them in memory."""
    if isinstance(value, Tensor):
        return _take(value, rows, axis)
    entries = [value[row] for row in rows]
    return [entry.clone() if isinstance(entry, Tensor) and entry.is_contiguous() else entry for entry in entries]


def _take(tensor: Tensor, rows: Sequence[int], axis: int) -> Tensor:
    places = torch.tensor(rows).to(tensor.device, non_blocking=tensor.is_cuda)
    return tensor[(slice(None),) * axis + (places,)]
