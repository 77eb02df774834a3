"""Checks of single arguments of `stepcredit.Trainer` and its methods."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from numbers import Integral
from typing import Any

from stepcredit.errors import InputError, shortened
from stepcredit.training.callbacks import Callback
from stepcredit.utils.python_objects import is_async


def require_integer(name: str, value: Any, least: int) -> int:
    """`value` as an int, also if it is one of numpy's; InputError unless it is an integer of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise InputError(f"{name} is {shortened(repr(value))}, expected an integer of {least} or more")
    return int(value)


def require_callbacks(callbacks: Any) -> Sequence[Callback]:
    """`callbacks`; InputError unless each of them can be called with (metrics, images)."""
    if not isinstance(callbacks, Sequence) or not all(map(callable, callbacks)):
        raise InputError(f"callbacks is {shortened(repr(callbacks))}, expected a list of functions (metrics, images)")
    for callback in callbacks:
        name = getattr(callback, "__name__", type(callback).__name__)
        if is_async(callback):
            raise InputError(f"callback {name} is asynchronous: write an ordinary function (metrics, images)")
        try:
            inspect.signature(callback).bind({}, None)
        except TypeError as error:
            raise InputError(f"callback {name} cannot be called with (metrics, images): {error}") from None
        except ValueError:  # a builtin without a signature
            continue
    return callbacks


def require_names(name: str, value: Any) -> list[str]:
    """`value` as a list; InputError unless it is a list of strings."""
    if isinstance(value, str) or not isinstance(value, Sequence) or not all(isinstance(each, str) for each in value):
        raise InputError(f"{name} is {shortened(repr(value))}, expected a list of names")
    return list(value)
