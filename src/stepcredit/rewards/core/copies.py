"""Copies of the metadata that rewards receive."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor


def copied_metadata(metadata: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A deep copy of each dict. Images that share a dict get separate copies.

    Objects that cannot be copied, such as open files, are shared. Their containers are copied.
    """
    return [_copied(row) for row in metadata]


def _copied(value: Any) -> Any:
    try:
        return copy.deepcopy(value)
    except Exception:  # a class may raise anything when it is copied
        return _copied_container(value)


def _copied_container(value: Any) -> Any:
    """`value` with its own dicts, lists, tuples, sets and tensors, down to the objects that cannot be copied."""
    if isinstance(value, Tensor):  # one that was computed with gradients
        return value.detach().clone()
    if isinstance(value, Mapping):
        return {key: _copied(entry) for key, entry in value.items()}
    if isinstance(value, list | set) or type(value) is tuple:
        return type(value)(_copied(entry) for entry in value)
    return value
