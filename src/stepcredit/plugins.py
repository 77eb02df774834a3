"""The user's own code: a file, a module, or an installed package that offers an entry point.

Importing it runs its decorators (`register_credit`, `register_reward`, ...), which make its parts available by name.
"""

from __future__ import annotations

import ast
import functools
import importlib
import importlib.util
import os
import sys
import traceback
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

from stepcredit.errors import InputError, StepcreditError, caused_by, unknown
from stepcredit.utils.paths import expanded
from stepcredit.utils.python_objects import FILE_MODULE

GROUP = "stepcredit.plugins"
"""Entry points of this group are imported at the first look-up of any part."""

_loaded: dict[str, None] = {}
_folders: dict[str, None] = {}


def load_plugin(name: str) -> ModuleType:
    """Import a plugin, so that its decorators run. A plugin runs once per process.

    The current folder, and the folder of a file, come first on Python's import path while the plugin is imported, and
    last afterwards. So a plugin finds its neighbors however the program was started, and an installed package is never
    hidden by them. A file may also import its neighbors relatively, as in `from .helper import f`. Settings and random
    numbers that the plugin changes are restored, see `utils.global_state`.

    Args:
        name: `path/file.py`, relative to the current folder, or the dotted name of a module in the current folder or
            on Python's import path. A file is imported under a name of its own.

    Raises:
        InputError: the file or module does not exist, raises while it is imported, or exits. The message has the file,
            the line and the error.
    """
    with _contained(f"plugin '{name}'"):
        if not name.endswith(".py"):
            module = _load_module(name)
            _loaded.setdefault(name)
            return module
        path = expanded(name)
        module = _load_file(path)
        _loaded.setdefault(str(path.resolve()))
        return module


def load_plugins(names: Iterable[str]) -> None:
    """`load_plugin` for each of `names`, in order."""
    for name in names:
        load_plugin(name)


@dataclass(frozen=True)
class PluginState:
    """What another process needs to import the same code.

    Attributes:
        folder: the current folder.
        names: the plugins, files as absolute paths.
    """

    folder: str
    names: tuple[str, ...]

    @classmethod
    def of_this_process(cls) -> PluginState:
        return cls(str(Path.cwd()), tuple(_loaded))

    def restore(self) -> None:
        """Change to the folder, if this machine has it, and import the plugins."""
        if Path(self.folder).is_dir():
            os.chdir(self.folder)
        load_plugins(self.names)


def find_module_file(name: str) -> Path | None:
    """The file that `load_plugin` would import for the name of a module; None if it has none."""
    with _import_path(str(Path.cwd())):
        spec = importlib.util.find_spec(name)
    return Path(spec.origin) if spec is not None and spec.has_location and spec.origin is not None else None


@functools.cache
def load_entry_points() -> None:
    """Import what installed packages offer as entry points of the group `stepcredit.plugins`, once per process.

    Raises:
        InputError: one of them cannot be imported.
    """
    for entry in metadata.entry_points(group=GROUP):
        package = f" of the installed package {entry.dist.name}" if entry.dist else ""
        with _importing(f"plugin '{entry.name}'{package}"), _contained(f"plugin '{entry.name}'{package}"):
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
    with _importing(f"module '{name}'", "; for a file, write path/file.py"), _import_path(str(Path.cwd())) as hidden:
        module = importlib.import_module(name)
        hidden.pop(name.partition(".")[0], None)  # the module replaces one of another folder
        return module


def _load_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise InputError(f"no file {path} (current folder: {Path.cwd()})")
    folder = path.resolve().parent
    with _importing(f"plugin {path}"), _import_path(str(folder), str(Path.cwd())):
        if not _imports_relatively(path):
            return _run_file(path, _unique_name(path))
        while (folder.parent / "__init__.py").is_file() and (folder / "__init__.py").is_file():
            folder = folder.parent
        package = ".".join((_load_package(folder), *path.resolve().parent.relative_to(folder).parts))
        importlib.import_module(package)
        return _run_file(path, f"{package}.{path.stem.replace('.', '_')}")


def _run_file(path: Path, name: str, package_folder: Path | None = None) -> ModuleType:
    if name in sys.modules:
        return sys.modules[name]
    locations = None if package_folder is None else [str(package_folder)]
    spec = importlib.util.spec_from_file_location(name, path, submodule_search_locations=locations)
    assert spec is not None and spec.loader is not None, "a .py file always has a loader"
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look their module up by name
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _load_package(folder: Path) -> str:
    """The name of a package that consists of the files in `folder`. The name is unique, so that it hides no module."""
    name, init = _unique_name(folder), folder / "__init__.py"
    if init.is_file():
        _run_file(init, name, folder)
    elif name not in sys.modules:
        sys.modules[name] = package = ModuleType(name)
        package.__path__ = [str(folder)]
    return name


def _unique_name(path: Path) -> str:
    return f"{FILE_MODULE}{path.stem.replace('.', '_')}_{zlib.crc32(str(path.resolve()).encode()):08x}"


def _imports_relatively(path: Path) -> bool:
    try:
        nodes = ast.walk(ast.parse(path.read_bytes()))
    except (SyntaxError, ValueError):  # importing the file raises the same error, with its place
        return False
    return any(isinstance(node, ast.ImportFrom) and node.level > 0 for node in nodes)


@contextmanager
def _import_path(*folders: str) -> Iterator[dict[str, ModuleType]]:
    """Search `folders` first for modules in the block, and last afterwards.

    If modules of other plugins' folders have the name of a module in the first folder, they are taken out of
    `sys.modules` in the block, so that the folder's own modules are imported. Yields them by name; at the end of the
    block they are back.
    """
    hidden = _hidden_modules(folders[0])
    for name in hidden:
        del sys.modules[name]
    for folder in folders:
        _folders.setdefault(folder)
        if folder not in sys.path:
            sys.path.append(folder)
    sys.path[:0] = folders
    importlib.invalidate_caches()
    try:
        yield hidden
    finally:
        for folder in folders:
            with suppress(ValueError):  # the plugin has replaced the import path
                sys.path.remove(folder)
        sys.modules.update(hidden)


def _hidden_modules(folder: str) -> dict[str, ModuleType]:
    """Modules of other plugins' folders that have the name of a module in `folder`, with their submodules."""
    own = {path.stem for path in Path(folder).glob("*") if path.suffix == ".py" or path.is_dir()}
    others = set(_folders) - {folder}
    tops = {name for name in own & sys.modules.keys() if _folder_of(sys.modules[name]) in others}
    return {name: module for name, module in sys.modules.items() if name.partition(".")[0] in tops}


def _folder_of(module: ModuleType) -> str | None:
    """The folder on the import path that a module without dots in its name was found in."""
    file = getattr(module, "__file__", None)
    if file is None:
        return next((str(Path(place).parent) for place in getattr(module, "__path__", [])), None)
    return str(Path(file).parents[1] if Path(file).stem == "__init__" else Path(file).parent)


@contextmanager
def _contained(name: str) -> Iterator[None]:
    from stepcredit.utils.global_state import random_state_restored, settings_restored  # torch takes seconds to import

    with settings_restored(name), random_state_restored():
        yield


@contextmanager
def _importing(what: str, hint: str = "") -> Iterator[None]:
    try:
        yield
    except StepcreditError:
        raise
    except (Exception, SystemExit) as error:  # the user's code may raise anything
        hint = hint if isinstance(error, ModuleNotFoundError) else ""
        words = " ".join(str(error).split())
        problem = InputError(f"cannot import {what}: {type(error).__name__}: {words}{_place(error)}{hint}")
        raise caused_by(error, problem) from error


def _place(error: BaseException) -> str:
    """File and line of the user's code that raised; a SyntaxError has them in its message."""
    frames = traceback.extract_tb(error.__traceback__)
    theirs = [frame for frame in frames if frame.filename not in _OURS and not frame.filename.startswith("<frozen ")]
    if not theirs or isinstance(error, SyntaxError):
        return ""
    last = [frame for frame in theirs if frame.filename == theirs[0].filename][-1]
    return f" ({last.filename}, line {last.lineno})"


_OURS = (__file__, importlib.__file__, metadata.__file__)
