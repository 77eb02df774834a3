"""`stepcredit list`: what there is of each kind, with a line about it."""

from __future__ import annotations

import json
from collections.abc import Callable
from inspect import getdoc
from pathlib import Path
from typing import Any

from stepcredit import recipes
from stepcredit.credit import CREDIT
from stepcredit.errors import unknown
from stepcredit.prompts import prompt_names
from stepcredit.registry import Registry
from stepcredit.rewards import REWARDS


def show(kind: str, as_json: bool) -> None:
    """Print the parts of `kind`: a table, or a JSON array of {name, description}."""
    if kind not in _LISTINGS:
        raise unknown("kind of part", kind, _LISTINGS)
    parts = _LISTINGS[kind]()
    if as_json:
        print(json.dumps([{"name": name, "description": text} for name, text in parts.items()], indent=1))
        return
    width = max(map(len, parts), default=0)
    for name, text in parts.items():
        print(f"{name:<{width}}  {text}")


def _registered(registry: Registry[Any]) -> dict[str, str]:
    return {name: (getdoc(registry.get(name)) or "").partition("\n")[0] for name in registry.names()}


def _recipes() -> dict[str, str]:
    return {name: _first_comment(path) for name, path in recipes.packaged().items()}


def _first_comment(path: Path) -> str:
    return path.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ")


_LISTINGS: dict[str, Callable[[], dict[str, str]]] = {
    "credit": lambda: _registered(CREDIT),
    "reward": lambda: _registered(REWARDS),
    "prompt": prompt_names,
    "recipe": _recipes,
}
