"""`stepcredit list`: what there is of each kind, with a line about it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from inspect import getdoc
from pathlib import Path
from typing import Any

from stepcredit.credit import CREDIT
from stepcredit.errors import unknown
from stepcredit.prompts import prompt_names
from stepcredit.registry import Registry
from stepcredit.rewards import REWARDS
from stepcredit.rewards.core.card import RewardCard
from stepcredit.runs import recipes

Part = dict[str, str]


def show(kind: str, as_json: bool) -> None:
    """Print the parts of `kind`: a table, or a JSON array of {name, description}.

    A reward with a RewardCard also has those fields of the card that are not empty, in brackets in the table.
    """
    if kind not in _LISTINGS:
        raise unknown("kind of part", kind, _LISTINGS)
    parts = _LISTINGS[kind]()
    if as_json:
        print(json.dumps(parts, indent=1))
        return
    width = max((len(part["name"]) for part in parts), default=0)
    for part in parts:
        print(f"{part['name']:<{width}}  {_line(**part)}")


def _line(name: str, description: str, **card: str) -> str:
    return f"{description} [{'; '.join(f'{key}: {value}' for key, value in card.items())}]" if card else description


def _registered(registry: Registry[Any]) -> list[Part]:
    return [_part(name, registry.get(name)) for name in registry.names()]


def _part(name: str, part: Any) -> Part:
    card = getattr(part, "CARD", None)
    fields = {key: value for key, value in asdict(card).items() if value} if isinstance(card, RewardCard) else {}
    return {"name": name, "description": (getdoc(part) or "").partition("\n")[0], **fields}


def _described(descriptions: dict[str, str]) -> list[Part]:
    return [{"name": name, "description": text} for name, text in descriptions.items()]


def _recipes() -> dict[str, str]:
    return {name: _first_comment(path) for name, path in recipes.packaged().items()}


def _first_comment(path: Path) -> str:
    return path.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ")


_LISTINGS: dict[str, Callable[[], list[Part]]] = {
    "credit": lambda: _registered(CREDIT),
    "reward": lambda: _registered(REWARDS),
    "prompt": lambda: _described(prompt_names()),
    "recipe": lambda: _described(_recipes()),
}
