"""The user's own code: a file, a module, or an installed package that offers an entry point.

Importing it runs its decorators (`register_credit`, `register_reward`, ...), which make its parts available by name.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import sys
import traceback
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

from stepcredit.errors import InputError, StepcreditError, unknown

GROUP = "stepcredit.plugins"
"""Entry points of this group are imported at the first look-up of any part."""

_loaded: dict[str, None] = {}


def load_plugin(name: str) -> ModuleType:
    """Import a plugin, so that its decorators run. A plugin runs once per process.

    Args:
        name: `path/file.py`, relative to the current folder, or the dotted name of an importable module. A file is
            imported as a module of its own. `sys.path` does not change, so a file cannot import its neighbors by name.

    Raises:
        InputError: the file or module does not exist, raises while it is imported, or exits. The message has the file,
            the line and the error.
    """
    module = _load_file(Path(name)) if name.endswith(".py") else _load_module(name)
    _loaded.setdefault(name)
    return module


def load_plugins(names: Iterable[str]) -> None:
    """`load_plugin` for each of `names`, in order."""
    for name in names:
        load_plugin(name)


def loaded_plugins() -> list[str]:
    """The names that were given to `load_plugin`, for another process that needs the same parts."""
    return list(_loaded)


@functools.cache
def load_entry_points() -> None:
    """Import what installed packages offer as entry points of the group `stepcredit.plugins`, once per process.

    Raises:
        InputError: one of them cannot be imported.
    """
    for entry in metadata.entry_points(group=GROUP):
        package = f" of the installed package {entry.dist.name}" if entry.dist else ""
        with _importing(f"plugin '{entry.name}'{package}"):
            entry.load()


def load_attribute(name: str) -> Callable[..., Any]:
    """The function, class or other callable `path/file.py:name` or `module:name`.

    Raises:
        InputError: the file or module cannot be imported, has no such name, or the value is not callable.
    """
    place, _, attribute = name.rpartition(":")
    values = vars(load_plugin(place))
    if attribute not in values:
        public = [key for key, value in values.items() if callable(value) and not key.startswith("_")]
        raise unknown(f"function or class of {place}", attribute, public)
    value = values[attribute]
    if not callable(value):
        raise InputError(f"{name} is a {type(value).__name__}, expected a function or a class")
    return value  # type: ignore[no-any-return]


def _load_module(name: str) -> ModuleType:
    with _importing(f"module '{name}'", "; for a file, write path/file.py"):
        return importlib.import_module(name)


def _load_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise InputError(f"no plugin file {path} (current folder: {Path.cwd()})")
    name = f"stepcredit_user_{path.stem}_{zlib.crc32(str(path.resolve()).encode()):08x}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None, "a .py file always has a loader"
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look their module up by name
    try:
        with _importing(f"plugin {path}"):
            spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


@contextmanager
def _importing(what: str, hint: str = "") -> Iterator[None]:
    try:
        yield
    except StepcreditError:
        raise
    except (Exception, SystemExit) as error:  # the user's code may raise anything
        hint = hint if isinstance(error, ModuleNotFoundError) else ""
        words = " ".join(str(error).split())
        raise InputError(f"cannot import {what}: {type(error).__name__}: {words}{_place(error)}{hint}") from error


def _place(error: BaseException) -> str:
    """File and line of the user's code that raised; a SyntaxError has them in its message."""
    frames = traceback.extract_tb(error.__traceback__)
    theirs = [frame for frame in frames if frame.filename not in _OURS and not frame.filename.startswith("<frozen ")]
    if not theirs or isinstance(error, SyntaxError):
        return ""
    last = [frame for frame in theirs if frame.filename == theirs[0].filename][-1]
    return f" ({last.filename}, line {last.lineno})"


_OURS = (__file__, importlib.__file__, metadata.__file__)
