"""Parts by name: credit rules, rewards, algorithms, samplers. A new part is one new file, or one decorated object.

A registry finds its parts in three places: the modules of its own package, plugins that were loaded, and entry points
of installed packages. `path/file.py:name` and `module:name` work wherever a registered name does.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import pkgutil
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, Generic, TypeVar

from stepcredit.errors import InputError, shortened, unknown
from stepcredit.plugins import load_attribute, load_entry_points, load_plugins

Part = TypeVar("Part")
Registered = TypeVar("Registered")
Built = TypeVar("Built")


class Registry(Generic[Part]):
    """Parts of one kind by name.

    The modules of `package`, and entry points, are imported at the first look-up, never before.

    >>> CREDIT = Registry("credit rule", "stepcredit.credit")

    Args:
        kind: how errors name a part.
        package: whose modules register parts.
    """

    def __init__(self, kind: str, package: str) -> None:
        self.kind = kind
        self.package = package
        self._parts: dict[str, Part] = {}
        self._searched = False

    def register(self, name: str) -> Callable[[Registered], Registered]:
        """Decorator that adds a part. Defining the same function or class again replaces it, as in a notebook.

        Raises:
            InputError: `name` is not a name; what is decorated is not a function, class or other callable; or another
                part has the name. The message then says where both are defined.
        """
        if not isinstance(name, str) or not name.strip() or not name.isprintable():
            raise InputError(
                f"a {self.kind} is registered as {shortened(repr(name))}, expected a name: write the name in "
                "parentheses after the decorator, as a string"
            )

        def add(part: Registered) -> Registered:
            if not callable(part):
                raise InputError(
                    f"{self.kind} '{name}' is {shortened(repr(part))}, expected a function, a class or another callable"
                )
            if not str(getattr(part, "__module__", "")).startswith(self.package):
                self._search()  # so that a plugin cannot take the name of a part of the package
            present = self._parts.get(name)
            if present is not None and present is not part and _identity(present) != _identity(part):
                raise InputError(
                    f"{self.kind} '{name}' is registered twice: in {_location(present)} and in {_location(part)}; "
                    "rename one of them"
                )
            self._parts[name] = part  # type: ignore[assignment]
            return part

        return add

    def names(self) -> list[str]:
        """All registered names, sorted."""
        self._search()
        return sorted(self._parts)

    def get(self, name: str, plugins: Iterable[str] = ()) -> Part:
        """The part of that name, or the object that `path/file.py:name` or `module:name` refers to.

        Args:
            plugins: loaded if no part has the name; see `stepcredit.plugins.load_plugin`.

        Raises:
            InputError: there is none. The message suggests the most similar name.
        """
        self._search()
        if name not in self._parts:
            load_plugins(plugins)
        if name in self._parts:
            return self._parts[name]
        if ":" in name:
            return load_attribute(name)  # type: ignore[return-value]
        if name.endswith(".py"):
            raise InputError(f"{name} is a file: write {name}:NAME, with the name of the {self.kind} in it")
        raise unknown(self.kind, name, self._parts)

    def _search(self) -> None:
        if self._searched:
            return
        package = importlib.import_module(self.package)
        for module in pkgutil.iter_modules(package.__path__):
            importlib.import_module(f"{self.package}.{module.name}")
        load_entry_points()
        self._searched = True


def option_names(factory: Callable[..., Any]) -> list[str]:
    """The names of the arguments that `factory` accepts by keyword."""
    by_keyword = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return [name for name, parameter in inspect.signature(factory).parameters.items() if parameter.kind in by_keyword]


def require_options(
    factory: Callable[..., Any],
    name: str,
    options: Iterable[str],
    positional: int = 0,
    hidden: Collection[str] = (),
) -> None:
    """InputError for an option that `factory` does not accept. A factory with `**options` accepts any.

    Args:
        name: how errors name the factory.
        positional: number of leading arguments that are not options.
        hidden: further arguments that are not options.
    """
    kinds = [parameter.kind for parameter in inspect.signature(factory).parameters.values()]
    if inspect.Parameter.VAR_KEYWORD in kinds:
        return
    known = [option for option in option_names(factory)[positional:] if option not in hidden]
    for option in options:
        if option not in known:
            raise unknown(f"{name} option", option, known)


def construct(factory: Callable[..., Built], name: str, options: Mapping[str, Any]) -> Built:
    """`factory(**options)` for the part called `name`.

    Raises:
        InputError: an option is unknown or missing, or the factory raises TypeError or ValueError for its value.
    """
    require_options(factory, name, options)
    try:
        return factory(**options)
    except (TypeError, ValueError) as error:
        raise InputError(f"cannot build {name}: {' '.join(str(error).split())}") from error


def bind(
    function: Callable[..., Any],
    name: str,
    options: Mapping[str, Any],
    positional: int,
    hidden: Collection[str] = (),
) -> Callable[..., Any]:
    """`function` with `options` as further keyword arguments of every call.

    Args:
        name: how errors name the function.
        positional: number of leading arguments that are not options.
        hidden: further arguments that are not options.

    Raises:
        InputError: an option is unknown.
    """
    require_options(function, name, options, positional, hidden)
    return functools.partial(function, **options) if options else function


def _identity(part: object) -> object:
    """Equal for two definitions of the same function or class."""
    qualified = getattr(part, "__module__", None), getattr(part, "__qualname__", None)
    return qualified if all(qualified) else part


def _location(part: Any) -> str:
    try:
        return f"{inspect.getsourcefile(part)}, line {inspect.getsourcelines(part)[1]}"
    except (OSError, TypeError):  # no source, or not a function or class
        return f"module {getattr(part, '__module__', type(part).__module__)}"
