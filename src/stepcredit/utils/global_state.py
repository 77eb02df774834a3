"""Keep user code from changing the settings and the random numbers of the process."""

from __future__ import annotations

import logging
import os
import random
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

log = logging.getLogger(__name__)


@contextmanager
def settings_restored(name: str, warned: set[str] | None = None) -> Iterator[None]:
    """Restore the settings of torch, numpy and the process that the block changes.

    These are the grad mode, autocast, the default dtype and device, the number of threads, the deterministic,
    precision and cuDNN flags of torch, anomaly detection, numpy's handling of floating-point errors, and the current
    folder. A warning names the settings that had to be restored, except the grad mode.

    Most of these settings belong to the whole process. Another thread sees a change until the block ends. Blocks in
    several threads may overlap: all of them restore the values from before the first one.

    Args:
        name: what changes the settings, for the warning.
        warned: the settings that have been warned about. They are not warned about again, and new ones are added.
    """
    own = _read(_THREAD_SETTINGS)
    shared = _shared.enter()
    try:
        yield
    finally:
        changes = _restore(_THREAD_SETTINGS, own) | _restore(_PROCESS_SETTINGS, shared)
        _shared.leave()
        _warn(name, changes, set() if warned is None else warned)


@contextmanager
def usual_settings() -> Iterator[None]:
    """In the block, torch has its usual grad mode, default dtype and default device, whatever the program has set."""
    dtype, usual = torch.get_default_dtype(), torch.get_default_device().type == "cpu"
    with (
        torch.inference_mode(False),
        torch.enable_grad(),
        nullcontext() if usual else torch.device("cpu"),  # a default device slows every call of torch
    ):
        torch.set_default_dtype(torch.float32)
        try:
            yield
        finally:
            torch.set_default_dtype(dtype)


class RandomState:
    """The random numbers of one piece of user code: those of torch, numpy and random.

    Its first `active` block starts from the state of the process. Every later block continues where the previous one
    ended. Seeds and draws inside a block do not change random numbers outside of it.
    """

    def __init__(self) -> None:
        self._state: Mapping[str, Any] | None = None

    @contextmanager
    def active(self) -> Iterator[None]:
        outside = _random_state()
        if self._state is not None:
            _set_random_state(self._state)
        try:
            yield
        finally:
            self._state = _random_state()
            _set_random_state(outside)


@contextmanager
def random_state_restored() -> Iterator[None]:
    """Restore the random number generators of torch, numpy and random at the end of the block."""
    with RandomState().active():
        yield


@dataclass(frozen=True)
class _Setting:
    read: Callable[[], Any]
    write: Callable[[Any], object]


def _attribute(owner: Any, name: str) -> _Setting:
    return _Setting(lambda: getattr(owner, name), lambda value: setattr(owner, name, value))


def _set_default_device(device: torch.device) -> None:
    """`None` for the CPU, because a default device slows every call of torch."""
    torch.set_default_device(None if device.type == "cpu" else device)


_GRAD_MODE = "grad mode"
_BACKENDS: Any = torch.backends

_THREAD_SETTINGS = {
    _GRAD_MODE: _Setting(torch.is_grad_enabled, torch.set_grad_enabled),
    "default device": _Setting(torch.get_default_device, _set_default_device),
    "number of threads": _Setting(torch.get_num_threads, torch.set_num_threads),
    "numpy error handling": _Setting(np.geterr, lambda value: np.seterr(**value)),
    **{
        f"autocast of {device}": _Setting(
            partial(torch.is_autocast_enabled, device), partial(torch.set_autocast_enabled, device)
        )
        for device in ("cpu", "cuda")
    },
}
"""Settings that each thread has for itself."""

_PROCESS_SETTINGS = {
    "default dtype": _Setting(torch.get_default_dtype, torch.set_default_dtype),
    "deterministic mode": _Setting(torch.get_deterministic_debug_mode, torch.set_deterministic_debug_mode),
    "float32 matmul precision": _Setting(torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    **{
        f"{name} precision": _attribute(backend, "fp32_precision")
        for name, backend in {
            "float32": _BACKENDS,
            "CUDA matmul": _BACKENDS.cuda.matmul,
            "cuDNN": _BACKENDS.cudnn,
            "cuDNN convolution": _BACKENDS.cudnn.conv,
            "cuDNN RNN": _BACKENDS.cudnn.rnn,
            "oneDNN matmul": _BACKENDS.mkldnn.matmul,
        }.items()
    },
    **{f"cuDNN flag {name}": _attribute(_BACKENDS.cudnn, name) for name in ("enabled", "benchmark", "deterministic")},
    "anomaly detection": _Setting(torch.is_anomaly_enabled, torch.autograd.set_detect_anomaly),
    "current folder": _Setting(os.getcwd, os.chdir),
}
"""Settings that all threads share."""


def _read(settings: Mapping[str, _Setting]) -> dict[str, Any]:
    """The values that can be read. torch refuses to read precisions that were set by its newer interface."""
    values = {}
    for name, setting in settings.items():
        with suppress(RuntimeError, OSError):
            values[name] = setting.read()
    return values


def _restore(settings: Mapping[str, _Setting], before: Mapping[str, Any]) -> dict[str, str]:
    """Set what differs from `before`. Returns {setting: "from X to Y"}."""
    after, changes = _read(settings), {}
    for name, value in before.items():
        present = after.get(name)
        if present != value:
            changes[name] = f"from {value} to {present}"
    for name in changes:
        with suppress(RuntimeError, OSError):  # a folder may be gone; the warning names the setting all the same
            settings[name].write(before[name])
    return changes


def _warn(name: str, changes: Mapping[str, str], warned: set[str]) -> None:
    new = {setting: change for setting, change in changes.items() if setting not in warned | {_GRAD_MODE}}
    warned.update(new)
    if new:
        described = "; ".join(f"{setting} {change}" for setting, change in new.items())
        log.warning("%s changes settings of the whole process, which are restored: %s", name, described)


class _SharedSettings:
    """The process settings from before the first of the blocks that are active."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._active = 0
        self._values: dict[str, Any] = {}

    def enter(self) -> dict[str, Any]:
        with self._lock:
            if self._active == 0:
                self._values = _read(_PROCESS_SETTINGS)
            self._active += 1
            return self._values

    def leave(self) -> None:
        with self._lock:
            self._active -= 1


_shared = _SharedSettings()


def _random_state() -> dict[str, Any]:
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
    return {"torch": torch.get_rng_state(), "cuda": cuda, "numpy": np.random.get_state(), "random": random.getstate()}


def _set_random_state(state: Mapping[str, Any]) -> None:
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None:
        torch.cuda.set_rng_state_all(state["cuda"])
    np.random.set_state(state["numpy"])
    random.setstate(state["random"])
