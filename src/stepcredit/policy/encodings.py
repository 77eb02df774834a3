"""What `encode_prompt` returned in a rollout: made once for all its distinct prompts, handed out row by row."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten

from stepcredit.errors import InputError

Encode = Callable[..., Any]


class Encodings:
    """The values of each call of `encode_prompt`, in order of the calls.

    Every distinct prompt is encoded once, all together, so that pipelines which pad to the longest prompt pad alike in
    every batch of the rollout. Which parts of a value belong to single prompts is found by encoding one prompt more and
    seeing what grows: lengths alone would confuse a batch with a sequence as long. The answer depends only on how the
    value is built, and is kept in `layouts` for the rollouts to come.
    """

    def __init__(self, prompts: Sequence[str], layouts: dict[Any, Any]) -> None:
        self.prompts = tuple(dict.fromkeys(prompts))
        self._row = {prompt: row for row, prompt in enumerate(self.prompts)}
        self._layouts = layouts
        self._calls: list[tuple[Any, Any]] = []
        self._recent: tuple[tuple[str, ...], list[Any]] = ((), [])

    def of(self, prompts: Sequence[str]) -> list[Any]:
        """The value of every call for a batch of `prompts`."""
        if self._recent[0] != tuple(prompts):
            rows = [self._row[prompt] for prompt in prompts]
            values = [_select(value, layout, rows, len(self.prompts)) for value, layout in self._calls]
            self._recent = (tuple(prompts), values)
        return self._recent[1]

    def recording(self, encode: Encode, batch: Sequence[str]) -> Encode:
        """`encode` for one run of the pipeline on `batch`: new calls are made for all prompts and remembered."""
        number = 0

        def encode_batch(*arguments: Any, **named: Any) -> Any:
            nonlocal number
            if number == len(self._calls):
                self._calls.append(self._whole(encode, batch, arguments, named))
                self._recent = ((), [])
            number += 1
            return self.of(batch)[number - 1]

        return encode_batch

    def _whole(
        self, encode: Encode, batch: Sequence[str], arguments: Sequence[Any], named: dict[str, Any]
    ) -> tuple[Any, Any]:
        signature = inspect.signature(encode)

        def encode_all(prompts: Sequence[str]) -> Any:
            bound = signature.bind(*arguments, **named)
            for name, value in bound.arguments.items():
                if _is_one_text_each(value, len(batch)):
                    bound.arguments[name] = _stretched(name, value, batch, prompts)
            return encode(*bound.args, **bound.kwargs)

        value = encode_all(self.prompts)
        kind = _kind(value)
        if kind not in self._layouts:
            longer = encode_all([*self.prompts, self.prompts[0]])
            self._layouts[kind] = _layout(value, longer, len(self.prompts))
        return value, self._layouts[kind]


def _is_one_text_each(value: Any, count: int) -> bool:
    return isinstance(value, list) and len(value) == count and all(isinstance(entry, str) for entry in value)


def _stretched(name: str, value: list[Any], batch: Sequence[str], prompts: Sequence[str]) -> list[Any]:
    """A list argument of one batch, for all `prompts`."""
    if value == list(batch):
        return list(prompts)
    if all(entry == value[0] for entry in value):
        return [value[0]] * len(prompts)
    raise InputError(f"encode_prompt was given a different {name} for every image: it cannot be replayed")


def _kind(value: Any) -> Any:
    """How a value is built: containers, and rank and dtype of its tensors."""
    leaves, spec = tree_flatten(value, is_leaf=lambda part: isinstance(part, list))
    return str(spec), tuple(
        (leaf.ndim, leaf.dtype) if isinstance(leaf, Tensor) else type(leaf).__name__ for leaf in leaves
    )


def _layout(value: Any, longer: Any, count: int) -> Any:
    """How often the batch is repeated along the first axis of each part: 0 where it is not there; tuples for tuples."""
    if isinstance(value, tuple):
        return tuple(_layout(*pair, count) for pair in zip(value, longer, strict=True))
    if isinstance(value, list) or (isinstance(value, Tensor) and value.ndim > 0):
        grown = len(longer) - len(value)
        if grown:
            if grown * count != len(value):
                raise InputError(
                    f"encode_prompt returned {len(value)} rows for {count} prompts: they cannot be told apart"
                )
            return grown
        if isinstance(value, list):
            return [_layout(*pair, count) for pair in zip(value, longer, strict=True)]
    return 0


def _select(value: Any, layout: Any, rows: Sequence[int], count: int) -> Any:
    if isinstance(layout, tuple):
        return tuple(_select(part, inner, rows, count) for part, inner in zip(value, layout, strict=True))
    if isinstance(layout, list):
        return [_select(part, inner, rows, count) for part, inner in zip(value, layout, strict=True)]
    if layout == 0:
        return value
    wanted = [block * count + row for block in range(layout) for row in rows]
    if isinstance(value, list):
        return [value[row] for row in wanted]
    return value[torch.tensor(wanted).to(value.device, non_blocking=value.is_cuda)]
