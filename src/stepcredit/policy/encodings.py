"""What `encode_prompt` returned in a rollout: made once for all its distinct prompts, handed out row by row."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from stepcredit.errors import InputError
from stepcredit.policy.prompt_rows import kind, layout, packed, selected

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
        signature = inspect.signature(encode)

        def encode_all(prompts: Sequence[str]) -> Any:
            bound = signature.bind(*arguments, **named)
            for name, value in bound.arguments.items():
                if _is_one_text_each(value, len(batch)):
                    bound.arguments[name] = _stretched(name, value, batch, prompts)
            return encode(*bound.args, **bound.kwargs)

        value = encode_all(self.prompts)
        built = kind(value)
        if built not in self._layouts:
            longer = encode_all([*self.prompts, self.prompts[0]])
            self._layouts[built] = layout(value, longer, len(self.prompts))
        return packed(value, self._layouts[built], len(self.prompts))


def _is_one_text_each(value: Any, count: int) -> bool:
    return isinstance(value, list) and len(value) == count and all(isinstance(entry, str) for entry in value)


def _stretched(name: str, value: list[Any], batch: Sequence[str], prompts: Sequence[str]) -> list[Any]:
    """A list argument of one batch, for all `prompts`."""
    if value == list(batch):
        return list(prompts)
    if all(entry == value[0] for entry in value):
        return [value[0]] * len(prompts)
    raise InputError(f"encode_prompt was given a different {name} for every image: it cannot be replayed")
