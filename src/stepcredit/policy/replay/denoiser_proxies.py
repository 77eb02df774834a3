"""Proxies that replace a pipeline's denoiser while a trajectory is recorded or replayed."""

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

_TIME_NAMES = ("timestep", "timesteps", "t")
"""The names that denoisers of diffusers give to the time of their rows."""


@dataclass(frozen=True)
class DenoiserCall:
    """One recorded call of the denoiser.

    Attributes:
        time: 0-d, the time that the pipeline passed for all rows; None if the denoiser takes no time.
        rows: rows of the input, which may hold the batch several times.
        output: the output's structure, with tensors that have the output's shapes and take no memory.
    """

    time: Tensor | None
    rows: int
    output: Any


def takes_time(denoiser: torch.nn.Module) -> bool:
    """Whether the rows of a call can be given different times."""
    return _time_argument(type(denoiser)) is not None


class DenoiserProxy:
    """Forwards attributes to the denoiser; subclasses replace the call."""

    def __init__(self, denoiser: torch.nn.Module) -> None:
        self._denoiser = denoiser

    def __getattr__(self, name: str) -> Any:
        return getattr(self._denoiser, name)


class RecordingDenoiser(DenoiserProxy):
    """Appends every call to `calls`, a list per step."""

    def __init__(self, denoiser: torch.nn.Module, hook: RecordingHook, calls: list[list[DenoiserCall]]) -> None:
        super().__init__(denoiser)
        self._hook = hook
        self._calls = calls

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        output = self._denoiser(*args, **kwargs)
        while len(self._calls) <= self._hook.position:
            self._calls.append([])
        kind = type(self._denoiser)
        call = DenoiserCall(_time(kind, args, kwargs), _rows(kind, args, kwargs), tree_map(_shape_only, output))
        self._calls[self._hook.position].append(call)
        return output


class SkippingDenoiser(DenoiserProxy):
    """Returns zeros, in the structure of the recorded outputs, until the hook reaches the requested step."""

    def __init__(self, denoiser: torch.nn.Module, hook: ReplayHook, calls: Sequence[Sequence[DenoiserCall]]) -> None:
        super().__init__(denoiser)
        self._hook = hook
        self._calls = calls
        self._position = 0
        self._made = 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not self._hook.skips:
            return self._denoiser(*args, **kwargs)
        if self._position != self._hook.position:
            self._position, self._made = self._hook.position, 0
        call = self._calls[self._position][self._made]
        self._made += 1
        return _zeros(call.output, call.rows, _rows(type(self._denoiser), args, kwargs))


class TimedDenoiser(DenoiserProxy):
    """Passes each row the time of its own step instead of the one time that the pipeline passes for all.

    Args:
        steps: the step of each image. A call may hold the batch several times, one after the other.
    """

    def __init__(
        self, denoiser: torch.nn.Module, calls: Sequence[Sequence[DenoiserCall]], steps: Sequence[int]
    ) -> None:
        super().__init__(denoiser)
        self._calls = calls
        self._steps = steps
        self._made = 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        kind = type(self._denoiser)
        position, name = _time_argument(kind) or (0, "")
        times = self._times().repeat(_rows(kind, args, kwargs) // len(self._steps))
        self._made += 1
        if name in kwargs:
            kwargs[name] = times
        else:
            args = (*args[:position], times, *args[position + 1 :])
        return self._denoiser(*args, **kwargs)

    def _times(self) -> Tensor:
        times = [self._calls[step][self._made].time for step in self._steps]
        return torch.stack([time for time in times if time is not None])


@cache
def _argument_names(kind: Any) -> list[str]:
    return [name for name in inspect.signature(kind.forward).parameters if name != "self"]


def _time_argument(kind: Any) -> tuple[int, str] | None:
    """(position, name) of the time among a denoiser's arguments."""
    return next(((number, name) for number, name in enumerate(_argument_names(kind)) if name in _TIME_NAMES), None)


def _time(kind: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor | None:
    argument = _time_argument(kind)
    if argument is None:
        return None
    position, name = argument
    value = kwargs[name] if name in kwargs else args[position] if position < len(args) else None
    return None if value is None else torch.as_tensor(value).flatten()[0]


def _rows(kind: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> int:
    """Rows of a call's latents, which are the first argument of every denoiser."""
    return len(args[0] if args else kwargs[_argument_names(kind)[0]])


def _shape_only(value: Any) -> Any:
    """A tensor of the same shape that takes no memory."""
    return value.detach().new_zeros(()).expand(value.shape) if isinstance(value, Tensor) else value


def _zeros(recorded: Any, recorded_rows: int, rows: int) -> Any:
    """Zeros in the structure of `recorded`, the output for `recorded_rows` rows, for `rows` rows."""
    if isinstance(recorded, Tensor):
        length = len(recorded) * rows // recorded_rows
        return torch.zeros(length, *recorded.shape[1:], dtype=recorded.dtype, device=recorded.device)
    if isinstance(recorded, list):
        return [_zeros(recorded[0], 1, 1)] * (len(recorded) * rows // recorded_rows)
    if isinstance(recorded, tuple):
        return tuple(_zeros(part, recorded_rows, rows) for part in recorded)
    return type(recorded)(**{name: _zeros(part, recorded_rows, rows) for name, part in recorded.items()})
