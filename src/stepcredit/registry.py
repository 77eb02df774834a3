"""Named parts found by looking: every module of a package registers what it defines, so a new part is one new file."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Generic, TypeVar

from stepcredit.errors import InputError, unknown

Part = TypeVar("Part")
Built = TypeVar("Built")


class Registry(Generic[Part]):
    """Parts of one kind by name. Modules of `package` are imported at the first look-up, never before.

    >>> CREDIT = Registry("credit rule", "stepcredit.credit")
    """

    def __init__(self, kind: str, package: str) -> None:
        self.kind = kind
        self.package = package
        self._parts: dict[str, Part] = {}
        self._searched = False

    def register(self, name: str) -> Callable[[Part], Part]:
        """Decorator that adds a part; a name already taken by another part is a ValueError."""

        def add(part: Part) -> Part:
            if name in self._parts and self._parts[name] is not part:
                raise ValueError(f"{self.kind} '{name}' is registered twice")
            self._parts[name] = part
            return part

        return add

    def names(self) -> list[str]:
        """All registered names, sorted."""
        self._search()
        return sorted(self._parts)

    def get(self, name: str) -> Part:
        """The part of that name; InputError with the nearest name if there is none."""
        self._search()
        if name not in self._parts:
            raise unknown(self.kind, name, self._parts)
        return self._parts[name]

    def _search(self) -> None:
        if self._searched:
            return
        package = importlib.import_module(self.package)
        for module in pkgutil.iter_modules(package.__path__):
            importlib.import_module(f"{self.package}.{module.name}")
        self._searched = True


def option_names(factory: Callable[..., Any]) -> list[str]:
    """The names that `factory` can be given by keyword."""
    by_keyword = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return [name for name, parameter in inspect.signature(factory).parameters.items() if parameter.kind in by_keyword]


def require_options(factory: Callable[..., Any], name: str, options: Iterable[str]) -> None:
    """InputError for an option that `factory` cannot be given (the nearest is named); `**anything` takes any."""
    kinds = [parameter.kind for parameter in inspect.signature(factory).parameters.values()]
    if inspect.Parameter.VAR_KEYWORD in kinds:
        return
    known = option_names(factory)
    for option in options:
        if option not in known:
            raise unknown(f"{name} option", option, known)


def construct(factory: Callable[..., Built], name: str, options: Mapping[str, Any]) -> Built:
    """`factory(**options)` for the part called `name`.

    Raises InputError for an unknown option (the nearest one is named), a missing one, or a value that the factory
    refuses with a TypeError or ValueError. A factory that takes `**anything` has no unknown options.
    """
    require_options(factory, name, options)
    try:
        return factory(**options)
    except (TypeError, ValueError) as error:
        raise InputError(f"cannot build {name}: {' '.join(str(error).split())}") from error
