"""Checks of single arguments of `stepcredit.Trainer` and its methods."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

from stepcredit.errors import InputError, shortened
from stepcredit.training.callbacks import Callback


def require_integer(name: str, value: Any, least: int) -> None:
    """InputError unless `value` is an integer of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InputError(f"{name} is {value!r}, expected an integer of {least} or more")


def require_callbacks(callbacks: Any) -> Sequence[Callback]:
    """`callbacks`; InputError unless each of them can be called with (metrics, images)."""
    if not isinstance(callbacks, Sequence) or not all(map(callable, callbacks)):
        raise InputError(f"callbacks is {shortened(repr(callbacks))}, expected a list of functions (metrics, images)")
    for callback in callbacks:
        try:
            inspect.signature(callback).bind({}, None)
        except TypeError as error:
            name = getattr(callback, "__name__", type(callback).__name__)
            raise InputError(f"callback {name} cannot be called with (metrics, images): {error}") from None
        except ValueError:  # a builtin without a signature
            continue
    return callbacks
