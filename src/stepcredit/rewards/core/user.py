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

import torch

from stepcredit.errors import InputError, unknown
from stepcredit.registry import construct, option_names
from stepcredit.rewards.core.signature import argument_count, full_signature
from stepcredit.types import RewardFunction


def load_user_reward(name: str, options: Mapping[str, Any]) -> RewardFunction:
    """The reward `module:function` or `path/file.py:function`; see `make_reward` for what it may be.

    Raises:
        InputError: the module or file cannot be imported or has no such function, or as in `make_reward`.
    """
    source, _, attribute = name.rpartition(":")
    module = _load_file(Path(source)) if source.endswith(".py") else _load_module(source)
    return make_reward(_attribute(module, source, attribute), name, options)


def make_reward(definition: Callable[..., Any], name: str, options: Mapping[str, Any]) -> RewardFunction:
    """The reward that a class or a function defines.

    A class is instantiated with the options. Any other callable is the reward itself, and the options are keyword
    arguments of every call.

    Raises:
        InputError: unknown option, the class raises when it is instantiated, or the reward cannot be called with
            images, prompts and metadata or the first of them.
    """
    build = _instance if inspect.isclass(definition) else _with_options
    return full_signature(build(definition, name, options), name)


def _load_module(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:  # importing runs the user's code, which may raise anything
        hint = "; to load a file, write path/file.py:function" if isinstance(error, ModuleNotFoundError) else ""
        raise InputError(f"cannot import reward module '{name}': {_one_line(error)}{hint}") from error


def _load_file(path: Path) -> ModuleType:
    """Import the file without changing `sys.path`, so it cannot import modules of its own folder by name."""
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


def _attribute(module: ModuleType, source: str, name: str) -> Callable[..., Any]:
    names = vars(module)
    if name not in names:
        public = [key for key, value in names.items() if callable(value) and not key.startswith("_")]
        raise unknown(f"function of {source}", name, public)
    if not callable(names[name]):
        raise InputError(f"{source}:{name} is a {type(names[name]).__name__}, expected a function or a class")
    definition: Callable[..., Any] = names[name]
    return definition


def _instance(kind: Callable[..., Any], name: str, options: Mapping[str, Any]) -> Callable[..., Any]:
    try:
        reward: Callable[..., Any] = construct(kind, name, options)
    except (InputError, MemoryError, torch.OutOfMemoryError):
        raise
    except (Exception, SystemExit) as error:  # as above
        raise InputError(f"cannot build {name}: {_one_line(error)}") from error
    if not callable(reward):
        raise InputError(f"reward '{name}' is a class without __call__: define __call__(images, prompts, metadata)")
    return reward


def _with_options(function: Callable[..., Any], name: str, options: Mapping[str, Any]) -> Callable[..., Any]:
    if not options:
        return function
    known = option_names(function)[argument_count(function, name) :]
    for option in options:
        if option not in known:
            raise unknown(f"{name} option", option, known)
    return functools.partial(function, **options)


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
