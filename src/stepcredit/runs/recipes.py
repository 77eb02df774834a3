"""Recipes: YAML files of a TrainConfig, packaged ones by name, `section.key=value` overrides on top."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from stepcredit.config import TrainConfig
from stepcredit.errors import InputError, shortened, unknown
from stepcredit.utils.redaction import secret_place
from stepcredit.utils.safe_yaml import load_plain

_PLACES = (Path(__file__).parents[1] / "recipes", Path(__file__).parents[3] / "recipes")
DEFAULT = "embedded_jpeg"
LARGEST_FILE = 2**20
"""Bytes of a recipe, at most."""


def packaged() -> dict[str, Path]:
    """Recipes and comparisons that ship with the project, by name: in an installed wheel, or at a checkout's root."""
    for place in _PLACES:
        if place.is_dir():
            return {path.stem: path for path in sorted(place.glob("*.yaml"))}
    return {}


def find(recipe: str) -> Path:
    """The file of a recipe given by path or packaged name."""
    path = Path(recipe)
    if _is_file(path):
        return path
    if path.suffix in (".yaml", ".yml"):
        raise InputError(f"no recipe file {recipe}")
    if recipe not in packaged():
        raise unknown("recipe", recipe, packaged())
    return packaged()[recipe]


def load(recipe: str | Path | None, overrides: Sequence[str] = ()) -> TrainConfig:
    """The configuration of a recipe (None is all defaults) with `section.key=value` overrides applied.

    Raises InputError with one line that names the key, the nearest valid key where there is one, and the value.
    """
    where = str(recipe) if recipe is not None else "the defaults"
    tree = {} if recipe is None else read_tree(find(str(recipe)))
    if is_comparison(tree):
        raise InputError(f"{recipe} is a comparison, not a recipe: run it with `stepcredit compare {recipe}`")
    for override in overrides:
        put(tree, *parsed(override))
    return validate(tree, where)


def is_comparison(tree: Mapping[str, Any]) -> bool:
    """Whether the mapping has arms, which no recipe has."""
    return "arms" in tree


def parsed(override: str) -> tuple[str, Any]:
    """(key, value) of `section.key=value`; InputError for one that is not."""
    key, equals, text = override.partition("=")
    if not equals or not all(key.strip().split(".")):
        raise InputError(f"'{shortened(override)}' is not an override; write section.key=value")
    return key.strip(), parse(text, f"cannot read the value of '{shortened(override)}'")


def put(tree: dict[str, Any], key: str, value: Any) -> None:
    """Set `section.key` in a mapping of sections; InputError if it leads through something else."""
    *path, last = key.split(".")
    node = tree
    for part in path:
        node = node.setdefault(part, {})
        if not isinstance(node, dict):
            raise InputError(f"'{key}' goes through '{part}', which holds a value, not a section")
    node[last] = value


def read_tree(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file, an empty section being one of defaults; InputError if it is not a mapping."""
    try:
        with path.open("rb") as file:
            text = file.read(LARGEST_FILE + 1)
        if len(text) > LARGEST_FILE:
            raise InputError(f"{path} is larger than {LARGEST_FILE} bytes: is it a recipe?")
        tree = parse(text.decode("utf-8-sig"), f"{path} is not valid YAML")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {path}: {error}") from error
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise InputError(f"{path} must hold a mapping of sections, not a {type(tree).__name__}")
    return {section: {} if body is None else body for section, body in tree.items()}


def parse(text: str, complaint: str) -> Any:
    """The value of a YAML text; InputError that begins with `complaint` if it is not plain (see `plain_yaml`)."""
    try:
        return load_plain(text)
    except ValueError as error:
        raise InputError(f"{complaint}: {error}") from error


def validate(tree: dict[str, Any], where: str) -> TrainConfig:
    """A TrainConfig of the mapping, or an InputError that says in one line what is wrong and where."""
    place = secret_place(tree)
    if place is not None:
        raise InputError(
            f"{place} in {where} looks like a secret, which config.yaml and the list of processes show to others: "
            "have it read from an environment variable or a file"
        )
    try:
        return TrainConfig.model_validate(tree)
    except ValidationError as error:
        complaints = (complaint(item, where, _keys()) for item in error.errors()[:3])
        raise InputError("; ".join(complaints)) from error


def dump(config: TrainConfig) -> str:
    """Complete, re-runnable YAML of a configuration."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that is too long, or in a folder that is closed
        return False


def complaint(item: Any, where: str, known: Iterable[str]) -> str:
    """One line about an error that pydantic found in what `where` says; `known` are the keys that there are."""
    location = [str(part) for part in item["loc"]]
    key = ".".join(location)
    if item["type"] == "extra_forbidden":
        near = difflib.get_close_matches(key, list(known), n=1, cutoff=0.5)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        return f"unknown key '{key}' in {where}{hint}"
    message = item["msg"].removeprefix("Value error, ")
    if not location:
        return f"{where}: {message}"
    return f"{key} = {shortened(repr(item['input']))} in {where}: {message[0].lower()}{message[1:]}"


def _keys() -> Iterable[str]:
    for section, field in TrainConfig.model_fields.items():
        yield section
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from (f"{section}.{name}" for name in field.annotation.model_fields)
