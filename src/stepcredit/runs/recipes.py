"""Recipes: YAML files of a TrainConfig, given by path or packaged name, and `section.key=value` overrides."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from difflib import SequenceMatcher
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import PydanticSerializationError, to_jsonable_python

from stepcredit.config import ComponentSection, TrainConfig
from stepcredit.errors import InputError, shortened, unknown
from stepcredit.runs.changes import apply_changes, put
from stepcredit.runs.foreign_names import foreign_hint
from stepcredit.runs.model_defaults import LoadedModel, missing_defaults
from stepcredit.utils.paths import expanded
from stepcredit.utils.redaction import find_secret
from stepcredit.utils.safe_yaml import load_plain

_FOLDERS = (Path(__file__).parents[1] / "recipes", Path(__file__).parents[3] / "recipes")
DEFAULT = "embedded_jpeg"
_MAX_BYTES = 2**20
MIN_SIMILARITY = 0.75
"""An unknown key is taken for a misspelled one if their similarity (`difflib`'s ratio) is at least this."""


def packaged() -> dict[str, Path]:
    """The recipes and comparisons of the package by name, from the installed wheel or the root of the checkout."""
    for folder in _FOLDERS:
        if folder.is_dir():
            return {path.stem: path for path in sorted(folder.glob("*.yaml"))}
    return {}


def find(recipe: str) -> Path:
    """The file of a recipe, given by path or packaged name. InputError if there is none."""
    path = expanded(recipe)
    if _is_file(path):
        return path
    if path.suffix in (".yaml", ".yml"):
        raise InputError(f"no recipe file {recipe}")
    if recipe not in packaged():
        raise unknown("recipe", recipe, packaged())
    return packaged()[recipe]


def load(recipe: str | Path | None, overrides: Sequence[str] = (), *, model_defaults: bool = True) -> TrainConfig:
    """The configuration of a recipe, with overrides applied.

    Args:
        recipe: path or packaged name. None starts from the defaults.
        overrides: `section.key=value` each, with a YAML value. They are applied as by `apply_changes`.
        model_defaults: as in `validate`.

    Raises:
        InputError: a key or value is invalid, or the model cannot be found. The message names it, and the most
            similar key.
    """
    where = str(recipe) if recipe is not None else "the defaults"
    tree = {} if recipe is None else read_tree(find(str(recipe)))
    if is_comparison(tree):
        raise InputError(f"{recipe} is a comparison, not a recipe: run it with `stepcredit compare {recipe}`")
    changes = dict(parsed(override) for override in overrides)
    apply_changes(tree, changes)
    return validate(tree, where, set(changes), model_defaults=model_defaults)


def is_comparison(tree: Mapping[str, Any]) -> bool:
    """Whether the mapping is a comparison: it has `arms`, which no recipe has."""
    return "arms" in tree


def parsed(override: str) -> tuple[str, Any]:
    """(key, value) of `section.key=value`. InputError if it has another form."""
    key, equals, text = override.partition("=")
    if not equals or not all(key.strip().split(".")):
        raise InputError(f"'{shortened(override)}' is not an override: write section.key=value")
    return key.strip(), parse(text, f"cannot read the value of '{shortened(override)}'")


def read_tree(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file. Empty sections become empty mappings. InputError if the file holds anything else."""
    try:
        with path.open("rb") as file:
            text = file.read(_MAX_BYTES + 1)
        if len(text) > _MAX_BYTES:
            raise InputError(f"{path} is larger than {_MAX_BYTES} bytes: give a YAML file")
        tree = parse(text.decode("utf-8-sig"), f"{path} is not valid YAML")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {path}: {error}") from error
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise InputError(f"{path} holds a {type(tree).__name__}, expected a mapping of sections")
    return {section: {} if body is None else body for section, body in tree.items()}


def parse(text: str, complaint: str) -> Any:
    """The value of a YAML text (see `load_plain`). InputError that begins with `complaint` if it is invalid."""
    try:
        return load_plain(text)
    except ValueError as error:
        raise InputError(f"{complaint}: {error}") from error


def validate(
    tree: dict[str, Any],
    where: str,
    overridden: Collection[str] = (),
    *,
    model_defaults: bool = False,
    loaded: LoadedModel | None = None,
) -> TrainConfig:
    """The TrainConfig of a mapping. InputError if it is invalid.

    Args:
        where: how errors name the source of the mapping.
        overridden: keys that were set by overrides. Errors about them do not name `where`.
        model_defaults: whether missing keys get the defaults of the model's family, see `missing_defaults`. They are
            then set, as if the mapping held them.
        loaded: as in `missing_defaults`.
    """
    config = _validated(tree, where, overridden)
    added = missing_defaults(tree, config, loaded) if model_defaults else {}
    if not added:
        return config
    tree = {section: dict(keys) if isinstance(keys, Mapping) else keys for section, keys in tree.items()}
    for name, value in added.items():
        put(tree, name, value)
    return _validated(tree, where, overridden)


def _validated(tree: dict[str, Any], where: str, overridden: Collection[str]) -> TrainConfig:
    key = find_secret(tree)
    if key is not None:
        raise InputError(
            f"{key} in {where} looks like a secret, which config.yaml would store in plain text: read it from an "
            "environment variable or a file instead"
        )
    try:
        config = TrainConfig.model_validate(tree)
    except ValidationError as error:
        found = [item for item in _one_per_key(error.errors()) if item["type"] != _DERIVED]
        complaints = (complaint(item, where, _keys(), overridden) for item in found[:3])
        raise InputError("; ".join(complaints)) from error
    for section, keys in config:
        for name, value in keys:
            _require_plain(f"{section}.{name}", value, where)
    return config


def _require_plain(key: str, value: Any, where: str) -> None:
    """InputError if a value, such as an option, is an object that config.yaml cannot hold."""
    try:
        to_jsonable_python(value)
    except PydanticSerializationError as error:
        raise InputError(
            f"{key} = {shortened(repr(value))} in {where} cannot be written to config.yaml: give numbers, strings, or "
            "lists and mappings of them"
        ) from error


def dump(config: TrainConfig) -> str:
    """A configuration as YAML. All keys are written, also those with default values."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # the name is too long, or the folder cannot be read
        return False


_DERIVED = "default_factory_not_called"
"""pydantic's error for a default that depends on an invalid value. That value has an error of its own."""


def complaint(item: Any, where: str, known: Iterable[str], overridden: Collection[str] = ()) -> str:
    """One line for an error of pydantic.

    Args:
        where: how the message names the source of the configuration.
        known: all valid keys.
        overridden: keys that were set by overrides, for which the message does not name `where`.
    """
    location = [str(part) for part in item["loc"]]
    key = ".".join(location)
    unknown_key = item["type"] == "extra_forbidden"
    ours = any(f"{key}.".startswith(f"{name}.") or (unknown_key and name.startswith(f"{key}.")) for name in overridden)
    place = "" if ours else f" in {where}"
    if unknown_key:
        return f"unknown key '{key}'{place}{_hint(key, list(known))}"
    message = item["msg"].removeprefix("Value error, ")
    if not location:
        return f"{where}: {message}"
    value = shortened(repr(item["input"]))
    if item["type"] == "model_type":
        first = next((name for name in known if name.startswith(f"{key}.")), f"{key}.KEY")
        return f"{key} = {value}{place}: {key} is a section; set a key of it, such as {first}"
    return f"{key} = {value}{place}: {message[0].lower()}{message[1:]}"


def key_hint(key: str) -> str:
    """What an unknown key may mean, beginning with a semicolon; empty if there is no guess."""
    return _hint(key, list(_keys()))


def _hint(key: str, known: Sequence[str]) -> str:
    """What an unknown key may mean: a name of another trainer, a key of another section, or a typing error."""
    section, _, name = key.rpartition(".")
    if section.startswith("reward.components."):
        known = [f"{section}.{field}" for field in ComponentSection.model_fields]
    elsewhere = [candidate for candidate in known if candidate.rpartition(".")[2] == name]
    foreign = foreign_hint(key, whole=bool(elsewhere))
    if foreign:
        return f"; {foreign}"
    similar = {candidate: _similarity(key, candidate) for candidate in known}
    best = max(similar.values())
    nearest = elsewhere or [candidate for candidate in known if similar[candidate] == best >= MIN_SIMILARITY][:1]
    return f"; did you mean {' or '.join(map(repr, nearest))}?" if nearest else ""


def _similarity(key: str, candidate: str) -> float:
    """Similarity of the names without their sections; if both keys have a section, at most that of the whole keys."""
    (section, _, name), (other, _, known) = key.rpartition("."), candidate.rpartition(".")
    similar = SequenceMatcher(None, name.lower(), known.lower()).ratio()
    if section and other:
        similar = min(similar, SequenceMatcher(None, key.lower(), candidate.lower()).ratio())
    return similar


def _one_per_key(items: Iterable[Any]) -> list[Any]:
    """One item per key: pydantic reports a value that fits no member of a union once for each member."""
    joined: dict[tuple[Any, ...], Any] = {}
    for item in items:
        union = item["loc"][:2] in _UNIONS
        key = item["loc"][:2] if union else item["loc"]
        if key in joined:
            item = {**item, "msg": f"{joined[key]['msg']}, or {item['msg'][0].lower()}{item['msg'][1:]}"}
        joined[key] = {**item, "loc": key}
    return list(joined.values())


_UNIONS = {
    (section, key)
    for section, field in TrainConfig.model_fields.items()
    for key, inner in field.annotation.model_fields.items()  # type: ignore[union-attr]
    if get_origin(inner.annotation) in (Union, UnionType)
}
"""Keys whose value may have one of several types."""


def _keys() -> Iterable[str]:
    for section, field in TrainConfig.model_fields.items():
        yield section
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from (f"{section}.{name}" for name in field.annotation.model_fields)
