"""How a configuration records a Python object."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable
from typing import Any

FILE_MODULE = "stepcredit_user_"
"""Begins the name of a module that was loaded from a plugin file."""
PREFIX = "python:"
"""Begins the record of an object that only the program that made it can supply."""


def object_reference(value: Any) -> str:
    """The record of an object in config.yaml.

    A function or class that other programs can import is recorded as `module:name` or `path/file.py:name`, which the
    command line can load. Everything else is recorded as `python:` and a description.

    >>> object_reference(lambda images: images)
    'python:stepcredit.utils.python_objects.<lambda>'
    """
    if is_importable(value):
        in_file = value.__module__.startswith(FILE_MODULE)
        place = sys.modules[value.__module__].__file__ if in_file else value.__module__
        return f"{place}:{value.__qualname__}"
    described = value if inspect.isroutine(value) or inspect.isclass(value) else type(value)
    return f"{PREFIX}{described.__module__}.{described.__qualname__}"


def is_importable(value: Any) -> bool:
    """Whether another program gets this object by importing its name from its module."""
    module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
    if not module or not name or module == "__main__" or not name.isidentifier():
        return False
    try:
        if importlib.util.find_spec(module) is None:  # a file that was loaded under a made-up name
            return False
        return getattr(importlib.import_module(module), name, None) is value
    except (ImportError, ValueError):
        return False


def is_python_object(reference: str) -> bool:
    """Whether `object_reference` returned a description that cannot be loaded."""
    return reference.startswith(PREFIX)


def is_async(function: Callable[..., Any]) -> bool:
    """Whether a call of `function` returns a coroutine, which nobody here would wait for."""
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)
