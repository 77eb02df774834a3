"""What stands in a pipeline for its denoiser while it is recorded and replayed."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from stepcredit.policy.replay.step_hooks import RecordingHook, ReplayHook

_TIMES = ("timestep", "timesteps", "t")
"""What denoisers of diffusers call the time of their rows."""


@dataclass(frozen=True)
class DenoiserCall:
    """One call of the denoiser.

    Attributes:
        time: 0-d, the time of its rows as the pipeline gives it, or None for a denoiser that is not told the time.
        output: what it returned, as shapes.
    """

    time: Tensor | None
    output: Any


def knows_time(denoiser: torch.nn.Module) -> bool:
    """Whether rows of a call can be given times of their own."""
    kind: Any = type(denoiser)
    return _time_argument(kind) is not None


class PassingDenoiser:
    """Everything but calls goes to the denoiser itself."""

    def __init__(self, denoiser: torch.nn.Module) -> None:
        self._denoiser = denoiser

    def __getattr__(self, name: str) -> Any:
        return getattr(self._denoiser, name)


class WatchedDenoiser(PassingDenoiser):
    """Notes every call, step by step."""

    def __init__(self, denoiser: torch.nn.Module, hook: RecordingHook, calls: list[list[DenoiserCall]]) -> None:
        super().__init__(denoiser)
        self._tape = hook
        self._calls = calls

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        output = self._denoiser(*arguments, **named)
        while len(self._calls) <= self._tape.position:
            self._calls.append([])
        time = _time(type(self._denoiser), arguments, named)
        self._calls[self._tape.position].append(DenoiserCall(time, tree_map(_blank, output)))
        return output


class IdleDenoiser(PassingDenoiser):
    """Returns zeros of the recorded shapes, for a batch of `count` where `batch` were recorded, until the hook comes to
    its step.
    """

    def __init__(
        self,
        denoiser: torch.nn.Module,
        hook: ReplayHook,
        calls: Sequence[Sequence[DenoiserCall]],
        batch: int,
        count: int,
    ) -> None:
        super().__init__(denoiser)
        self._tape = hook
        self._calls = calls
        self._batch = batch
        self._count = count
        self._made = 0

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        if not self._tape.passes():
            return self._denoiser(*arguments, **named)
        before = sum(map(len, self._calls[: self._tape.position]))
        blank = self._calls[self._tape.position][self._made - before].output
        self._made += 1
        return _zeros(blank, self._batch, self._count)


class TimedDenoiser(PassingDenoiser):
    """Gives every row the time that its own step had, in place of the one time that the pipeline gives.

    Args:
        steps: of each image; a call may hold the images several times over, one after the other.
    """

    def __init__(
        self, denoiser: torch.nn.Module, calls: Sequence[Sequence[DenoiserCall]], steps: Sequence[int]
    ) -> None:
        super().__init__(denoiser)
        self._calls = calls
        self._steps = steps
        self._made = 0

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        times = torch.stack([self._calls[step][self._made].time for step in self._steps])  # type: ignore[misc]
        self._made += 1
        kind: Any = type(self._denoiser)
        position, name = _time_argument(kind) or (0, "")
        rows = len(arguments[0] if arguments else next(iter(named.values())))
        times = times.repeat(rows // len(times))
        if name in named:
            named[name] = times
        else:
            arguments = (*arguments[:position], times, *arguments[position + 1 :])
        return self._denoiser(*arguments, **named)


@cache
def _time_argument(kind: Any) -> tuple[int, str] | None:
    """(position, name) of the time among a denoiser's arguments."""
    names = [name for name in inspect.signature(kind.forward).parameters if name != "self"]
    return next(((number, name) for number, name in enumerate(names) if name in _TIMES), None)


def _time(kind: Any, arguments: Sequence[Any], named: Mapping[str, Any]) -> Tensor | None:
    found = _time_argument(kind)
    if found is None:
        return None
    position, name = found
    value = named[name] if name in named else arguments[position] if position < len(arguments) else None
    return None if value is None else torch.as_tensor(value).flatten()[0]


def _blank(value: Any) -> Any:
    """A tensor of the same shape that takes no memory."""
    return value.detach().new_zeros(()).expand(value.shape) if isinstance(value, Tensor) else value


def _zeros(blank: Any, batch: int, count: int) -> Any:
    """Zeros like `blank`, whose first axis or list holds the batch once or more often, for `count` images."""
    if isinstance(blank, Tensor):
        return torch.zeros(len(blank) * count // batch, *blank.shape[1:], dtype=blank.dtype, device=blank.device)
    if isinstance(blank, list):
        first = _zeros(blank[0], 1, 1)
        return [first] * (len(blank) * count // batch)
    if isinstance(blank, tuple):
        return tuple(_zeros(part, batch, count) for part in blank)
    return type(blank)(**{name: _zeros(part, batch, count) for name, part in blank.items()})
