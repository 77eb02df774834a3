"""Rewards of the user's own, named in a recipe: `module:function` or `path/file.py:function`."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
import sys
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from stepcredit.errors import InputError, unknown
from stepcredit.registry import construct, option_names
from stepcredit.types import RewardFunction


def load_user_reward(name: str, options: Mapping[str, Any]) -> RewardFunction:
    """The reward `module:function` or `path/file.py:function`.

    A class is instantiated with the options. Anything else is the reward itself, and the options are keyword arguments
    of every call.

    Raises:
        InputError: the module or file cannot be imported or ends the program, has no such function, an option is
            unknown, a class raises when it is built, or the function does not take (images, prompts, metadata).
    """
    place, _, attribute = name.rpartition(":")
    found = _attribute(_load_file(Path(place)) if place.endswith(".py") else _load_module(place), place, attribute)
    build = _built if inspect.isclass(found) else _with_options
    reward: RewardFunction = build(found, name, options)
    _require_signature(reward, name)
    return reward


def _load_module(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:  # a user's module may do anything when it is run
        hint = "; a file is given as path/file.py:function" if isinstance(error, ModuleNotFoundError) else ""
        raise InputError(f"cannot import reward module '{name}': {_one_line(error)}{hint}") from error


def _load_file(path: Path) -> ModuleType:
    """Run the file as a module of its own; `sys.path` is left alone, so it cannot import its neighbors by name."""
    if not path.is_file():
        raise InputError(f"no reward file {path}")
    name = f"stepcredit_user_{path.stem}_{zlib.crc32(str(path.resolve()).encode()):08x}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None, "a .py file always has a loader"
    module = importlib.util.module_from_spec(spec)
    # Dataclasses and pickling look their module up by name.
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # as above
        del sys.modules[name]
        raise InputError(f"cannot import reward file {path}: {_one_line(error)}") from error
    return module


def _attribute(module: ModuleType, place: str, name: str) -> Callable[..., Any]:
    names = vars(module)
    if name not in names:
        own = [key for key, value in names.items() if callable(value) and not key.startswith("_")]
        raise unknown(f"function of {place}", name, own)
    if not callable(names[name]):
        raise InputError(f"{place}:{name} is a {type(names[name]).__name__}, expected a function or a class")
    found: Callable[..., Any] = names[name]
    return found


def _built(kind: Callable[..., Any], name: str, options: Mapping[str, Any]) -> RewardFunction:
    try:
        reward: RewardFunction = construct(kind, name, options)
    except InputError:
        raise
    except (Exception, SystemExit) as error:  # as above
        raise InputError(f"cannot build {name}: {_one_line(error)}") from error
    return reward


def _with_options(function: Callable[..., Any], name: str, options: Mapping[str, Any]) -> RewardFunction:
    if not options:
        return function
    known = option_names(function)[3:]
    for option in options:
        if option not in known:
            raise unknown(f"{name} option", option, known)
    return functools.partial(function, **options)


def _require_signature(reward: Callable[..., Any], name: str) -> None:
    try:
        inspect.signature(reward).bind("images", "prompts", "metadata")
    except (TypeError, ValueError) as error:
        raise InputError(f"reward '{name}' must take (images, prompts, metadata): {error}") from error


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
