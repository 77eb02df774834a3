"""Changes of keys in a configuration, and of the keys that belong to what they replace."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from stepcredit.config import MIXTURE, TrainConfig, default_order
from stepcredit.errors import InputError

_DEPENDENT: Mapping[str, Mapping[str, Any]] = {
    "reward.name": {"options": {}, "components": []},
    "credit.name": {"options": {}},
    "train.algorithm": {"options": {}},
}
"""By key that names a part: keys of its section that belong to the part, with the values for another part."""


def apply_changes(tree: dict[str, Any], changes: Mapping[str, Any]) -> None:
    """Set keys of a configuration. A new part does not inherit what belongs to the old one.

    - Another reward, credit rule or algorithm starts without options, and a reward without the components of a mixture.
      A function of yours whose file has moved is not another one.
    - `reward.components` makes the reward a mixture.
    - Another `prompts.source` loses `prompts.order`, if that was the default of the old one.

    Args:
        tree: sections with their keys; the defaults of TrainConfig may be missing. It is changed in place.
        changes: `section.key` and value, which win over the rules above. Values are not copied.

    Raises:
        InputError: a key is below a value that is not a section.
    """
    for key, dependent in _DEPENDENT.items():
        if key in changes and _is_other(current(tree, key), changes[key]):
            _set(tree, key, dependent)
    if changes.get("reward.components"):
        _set(tree, "reward.components", {"name": MIXTURE, "options": {}})
    source = current(tree, "prompts.source")
    if changes.get("prompts.source", source) != source and current(tree, "prompts.order") == default_order(source):
        tree.get("prompts", {}).pop("order", None)
    for key, value in changes.items():
        put(tree, key, value)


def put(tree: dict[str, Any], key: str, value: Any) -> None:
    """Set `section.key` in a mapping of sections. InputError if `section` is not a mapping."""
    *path, last = key.split(".")
    node = tree
    for part in path:
        node = node.setdefault(part, {})
        if not isinstance(node, dict):
            raise InputError(f"cannot set '{key}': '{part}' is a value, not a section")
    node[last] = value


def current(tree: Mapping[str, Any], key: str) -> Any:
    """The value of `section.key` in a mapping, or the default of TrainConfig."""
    section, _, name = key.partition(".")
    found = tree.get(section)
    keys = found if isinstance(found, Mapping) else {}
    if key == "reward.name" and keys.get("components"):
        return MIXTURE
    return keys[name] if name in keys else getattr(getattr(TrainConfig(), section), name)


def is_moved(before: Any, after: Any) -> bool:
    """Whether two names are those of one function whose file or module has moved."""
    (place, _, name), (other_place, _, other) = (str(each).rpartition(":") for each in (before, after))
    return name == other and all(each and not each.startswith("python") for each in (place, other_place))


def _is_other(before: Any, after: Any) -> bool:
    return bool(before != after) and not is_moved(before, after)


def _set(tree: dict[str, Any], key: str, values: Mapping[str, Any]) -> None:
    section = tree.setdefault(key.partition(".")[0], {})
    if isinstance(section, dict):
        section |= copy.deepcopy(dict(values))
