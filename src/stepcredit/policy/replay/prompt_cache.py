"""What `encode_prompt` returned in a rollout: made once for all its distinct prompts, handed out row by row."""

from __future__ import annotations

import inspect
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any

import torch
from torch import nn

from stepcredit.errors import InputError
from stepcredit.policy.replay.prompt_rows import kind, layout, packed, selected

Encode = Callable[..., Any]
_SETS = 2
"""Sets of prompts whose encodings are kept: those of the epochs and those of the sample grids."""
_PLAIN = (str, int, float, type(None), torch.device, torch.dtype)


class Earlier:
    """What the rollouts of a policy leave for those to come.

    A whole set of prompts is kept or none of it: the encoding of a prompt may depend, by its padding and by how kernels
    round a batch, on those that it is encoded with, and on their order. What was used longest ago goes first.

    Attributes:
        layouts: which parts of a value belong to single prompts, by how the value is built.
    """

    def __init__(self) -> None:
        self.layouts: dict[Any, Any] = {}
        self._sets: OrderedDict[Hashable, dict[Hashable, Any]] = OrderedDict()

    def of(self, prompts: Hashable) -> dict[Hashable, Any]:
        """The values for a set of prompts, by call: to be added to."""
        found = self._sets.setdefault(prompts, {})
        self._sets.move_to_end(prompts)
        while len(self._sets) > _SETS:
            self._sets.popitem(last=False)
        return found


class PromptCache:
    """The values of each call of `encode_prompt`, in order of the calls.

    Every distinct prompt is encoded once, all together, so that pipelines which pad to the longest prompt pad alike in
    every batch of the rollout. Which parts of a value belong to single prompts is found by encoding one prompt more and
    seeing what grows: lengths alone would confuse a batch with a sequence as long. The answer depends only on how the
    value is built.

    Args:
        earlier: what other rollouts have left, used where it is the same to the last bit.
        weights: of the text encoders, as `versions` has them.
    """

    def __init__(self, prompts: Sequence[str], earlier: Earlier, weights: Hashable = ()) -> None:
        self.prompts = tuple(dict.fromkeys(prompts))
        self._row = {prompt: row for row, prompt in enumerate(self.prompts)}
        self._layouts = earlier.layouts
        self._known = earlier.of((self.prompts, weights))
        self._calls: list[Any] = []
        self._recent: tuple[tuple[str, ...], list[Any]] = ((), [])

    def of(self, prompts: Sequence[str]) -> list[Any]:
        """The value of every call for a batch of `prompts`."""
        if self._recent[0] != tuple(prompts):
            rows = [self._row[prompt] for prompt in prompts]
            self._recent = (tuple(prompts), [selected(value, rows) for value in self._calls])
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

    def _whole(self, encode: Encode, batch: Sequence[str], arguments: Sequence[Any], named: dict[str, Any]) -> Any:
        def call(prompts: Sequence[str]) -> inspect.BoundArguments:
            bound = inspect.signature(encode).bind(*arguments, **named)
            for name, value in bound.arguments.items():
                if _is_one_text_each(value, len(batch)):
                    bound.arguments[name] = _stretched(name, value, batch, prompts)
            return bound

        whole = call(self.prompts)
        key = _key(encode, whole)
        if key is not None and key in self._known:
            return self._known[key]
        value = _encode(encode, whole)
        built = kind(value)
        if built not in self._layouts:
            one_more = call([*self.prompts, self.prompts[0]])
            self._layouts[built] = layout(value, _encode(encode, one_more), len(self.prompts))
        held = packed(value, self._layouts[built], len(self.prompts))
        if key is not None:
            self._known[key] = held
        return held


@torch.no_grad()
def _encode(encode: Encode, call: inspect.BoundArguments) -> Any:
    return encode(*call.args, **call.kwargs)


def versions(modules: Iterable[nn.Module]) -> Hashable:
    """Another value whenever a weight of `modules` has been changed or replaced."""
    return tuple((weight.data_ptr(), weight._version) for part in modules for weight in part.parameters())


def _key(encode: Encode, call: inspect.BoundArguments) -> Hashable | None:
    """What a value depends on beside weights; None if that cannot be told from the arguments."""
    if not _is_plain(call.arguments):
        return None
    return getattr(encode, "__func__", encode), repr(call.arguments)


def _is_plain(value: Any) -> bool:
    """Whether a value is known by its repr."""
    if isinstance(value, dict):
        return all(map(_is_plain, (*value, *value.values())))
    return all(map(_is_plain, value)) if isinstance(value, list | tuple) else isinstance(value, _PLAIN)


def _is_one_text_each(value: Any, count: int) -> bool:
    return isinstance(value, list) and len(value) == count and all(isinstance(entry, str) for entry in value)


def _stretched(name: str, value: list[Any], batch: Sequence[str], prompts: Sequence[str]) -> list[Any]:
    """A list argument of one batch, for all `prompts`."""
    if value == list(batch):
        return list(prompts)
    if all(entry == value[0] for entry in value):
        return [value[0]] * len(prompts)
    raise InputError(f"encode_prompt was given a different {name} for every image: it cannot be replayed")
