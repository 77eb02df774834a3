"""`stepcredit list`: the parts of each kind, with a line about each."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, is_dataclass
from functools import partial
from importlib import import_module
from inspect import getdoc
from pathlib import Path
from typing import Any

from stepcredit.errors import unknown
from stepcredit.runs import recipes

Part = dict[str, Any]

# Where the registry of each kind is. It is imported only when it is listed, because most registries need torch.
_REGISTRIES = {
    "algorithm": ("stepcredit.algorithms", "ALGORITHMS"),
    "credit": ("stepcredit.credit", "CREDIT"),
    "reward": ("stepcredit.rewards", "REWARDS"),
    "sampler": ("stepcredit.policy.samplers", "SAMPLERS"),
    "tracker": ("stepcredit.runs.trackers", "TRACKERS"),
}


def show(kind: str, as_json: bool) -> None:
    """Print the parts of `kind` as a table, or as a JSON array of {name, description}.

    A reward with a RewardCard also has those fields of the card that are not empty, in brackets in the table.

    Raises:
        InputError: an unknown kind.
    """
    kinds = _kinds()
    if kind not in kinds:
        raise unknown("kind of part", kind, kinds)
    parts = kinds[kind]()
    if as_json:
        print(json.dumps(parts, indent=1))
        return
    width = max((len(part["name"]) for part in parts), default=0)
    for part in parts:
        print(f"{part['name']:<{width}}  {_line(**part)}")


def _kinds() -> dict[str, Callable[[], list[Part]]]:
    return {**{kind: partial(_registered, kind) for kind in _REGISTRIES}, "prompt": _prompts, "recipe": _recipes}


def _line(name: str, description: str, **card: Any) -> str:
    return f"{description} [{'; '.join(f'{key}: {value}' for key, value in card.items())}]" if card else description


def _registered(kind: str) -> list[Part]:
    module, attribute = _REGISTRIES[kind]
    registry = getattr(import_module(module), attribute)
    return [_part(name, registry.get(name)) for name in registry.names()]


def _part(name: str, part: Any) -> Part:
    card: Any = getattr(part, "CARD", None)
    has_card = is_dataclass(card)
    fields = {key: value for key, value in asdict(card).items() if value not in ("", None)} if has_card else {}
    return {"name": name, "description": (getdoc(part) or "").partition("\n")[0], **fields}


def _prompts() -> list[Part]:
    from stepcredit.prompts import prompt_names  # torch takes seconds to import

    return [{"name": name, "description": text} for name, text in prompt_names().items()]


def _recipes() -> list[Part]:
    return [{"name": name, "description": _first_comment(path)} for name, path in recipes.packaged().items()]


def _first_comment(path: Path) -> str:
    return path.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ")
