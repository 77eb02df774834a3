"""What `encode_prompt` returned in a rollout: computed once for all distinct prompts, returned batch by batch."""

from __future__ import annotations

import inspect
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any

import torch
from torch import nn

from stepcredit.errors import InputError
from stepcredit.policy.replay.prompt_rows import batch_axes, pack, select, structure

Encode = Callable[..., Any]
_MAX_SETS = 2
"""Sets of prompts whose encodings stay in memory: those of the epochs and those of the sample grids."""
_PLAIN = (str, int, float, type(None), torch.device, torch.dtype)


class EncodingStore:
    """Encodings that later rollouts of the same policy may use; the least recently used set of prompts is dropped.

    The encoding of a prompt may depend on the other prompts of its batch and on their order, by padding and by how
    kernels round. Sets of prompts are therefore stored whole.

    Attributes:
        axes: what `prompt_rows.batch_axes` found, by the structure of the value.
    """

    def __init__(self) -> None:
        self.axes: dict[Any, Any] = {}
        self._sets: OrderedDict[Hashable, dict[Hashable, Any]] = OrderedDict()

    def values(self, prompts: Hashable) -> dict[Hashable, Any]:
        """The stored values of a set of prompts, by call; the caller adds to them."""
        values = self._sets.setdefault(prompts, {})
        self._sets.move_to_end(prompts)
        while len(self._sets) > _MAX_SETS:
            self._sets.popitem(last=False)
        return values


class PromptCache:
    """The values of each call of `encode_prompt`, in the order of the calls.

    All distinct prompts are encoded together, so that a pipeline that pads to the longest prompt pads equally in every
    batch. Which parts of a value belong to single prompts is found by encoding one more prompt: the parts that grow.
    Lengths alone would not do, because a sequence may be as long as the batch. The answer depends only on the
    structure of the value.

    Args:
        prompts: every prompt that batches may hold.
        store: values of other rollouts, used if prompts, weights and arguments are equal.
        weights: the `weight_versions` of the text encoders.
    """

    def __init__(self, prompts: Sequence[str], store: EncodingStore, weights: Hashable = ()) -> None:
        self.prompts = tuple(dict.fromkeys(prompts))
        self._row = {prompt: row for row, prompt in enumerate(self.prompts)}
        self._axes = store.axes
        self._stored = store.values((self.prompts, weights))
        self._calls: list[Any] = []
        self._recent: tuple[tuple[str, ...], list[Any]] = ((), [])

    def batch(self, prompts: Sequence[str]) -> list[Any]:
        """The value of every call for a batch of `prompts`."""
        if self._recent[0] != tuple(prompts):
            rows = [self._row[prompt] for prompt in prompts]
            self._recent = (tuple(prompts), [select(value, rows) for value in self._calls])
        return self._recent[1]

    def encoder(self, encode: Encode, batch: Sequence[str]) -> Encode:
        """A replacement of `encode` for one run of the pipeline on `batch`.

        Its n-th call returns the n-th value. A call that is new is made with `encode`, for all prompts, without
        gradients.
        """
        number = 0

        def encode_batch(*args: Any, **kwargs: Any) -> Any:
            nonlocal number
            if number == len(self._calls):
                self._calls.append(self._encode_all(encode, batch, args, kwargs))
                self._recent = ((), [])
            number += 1
            return self.batch(batch)[number - 1]

        return encode_batch

    def _encode_all(self, encode: Encode, batch: Sequence[str], args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        def call_for(prompts: Sequence[str]) -> inspect.BoundArguments:
            call = inspect.signature(encode).bind(*args, **kwargs)
            for name, value in call.arguments.items():
                if _is_text_per_image(value, len(batch)):
                    call.arguments[name] = _texts_for(name, value, batch, prompts)
            return call

        call = call_for(self.prompts)
        key = _key(encode, call)
        if key is not None and key in self._stored:
            return self._stored[key]
        value = _encode(encode, call)
        kind = structure(value)
        if kind not in self._axes:
            longer = _encode(encode, call_for([*self.prompts, self.prompts[0]]))
            self._axes[kind] = batch_axes(value, longer, len(self.prompts))
        packed = pack(value, self._axes[kind], len(self.prompts))
        if key is not None:
            self._stored[key] = packed
        return packed


def weight_versions(modules: Iterable[nn.Module]) -> Hashable:
    """A value that differs whenever a weight of `modules` was changed or replaced."""
    return tuple((weight.data_ptr(), weight._version) for part in modules for weight in part.parameters())


@torch.no_grad()
def _encode(encode: Encode, call: inspect.BoundArguments) -> Any:
    return encode(*call.args, **call.kwargs)


def _key(encode: Encode, call: inspect.BoundArguments) -> Hashable | None:
    """What a value depends on, apart from weights; None if the arguments cannot be compared cheaply."""
    if not _is_plain(call.arguments):
        return None
    return getattr(encode, "__func__", encode), repr(call.arguments)


def _is_plain(value: Any) -> bool:
    """Whether values are equal if their repr is."""
    if isinstance(value, dict):
        return all(map(_is_plain, (*value, *value.values())))
    return all(map(_is_plain, value)) if isinstance(value, list | tuple) else isinstance(value, _PLAIN)


def _is_text_per_image(value: Any, count: int) -> bool:
    return isinstance(value, list) and len(value) == count and all(isinstance(entry, str) for entry in value)


def _texts_for(name: str, value: list[Any], batch: Sequence[str], prompts: Sequence[str]) -> list[Any]:
    """A list argument that was given for `batch`, for all `prompts`."""
    if value == list(batch) and not name.startswith("negative"):
        return list(prompts)
    if all(entry == value[0] for entry in value):
        return [value[0]] * len(prompts)
    raise InputError(f"encode_prompt was given a different {name} for every image: it cannot be replayed")
