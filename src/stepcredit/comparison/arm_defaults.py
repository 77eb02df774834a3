"""Defaults of an arm that changes the model, or another key on which the model's defaults depend."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from typing import Any

from stepcredit.config import TrainConfig
from stepcredit.errors import InputError
from stepcredit.runs import recipes
from stepcredit.runs.changes import apply_changes, current
from stepcredit.runs.model_defaults import KEYS, SECTIONS


def own_defaults(given: Mapping[str, Any], base: TrainConfig, arm: str, changes: Mapping[str, Any]) -> dict[str, Any]:
    """The defaults of an arm that differ from those of the base configuration, by key; see `missing_defaults`.

    Args:
        given: the keys that the recipe and the overrides for every run set, by section.
        base: the configuration of `given`, with the defaults of its model.
        arm: its name, for error messages.
        changes: the overrides of the arm, as `section.key`.

    Raises:
        InputError: an override is invalid, or there is no such model.
    """
    if not any(key.partition(".")[0] in SECTIONS for key in changes):
        return {}
    tree, inherited = copy.deepcopy(dict(given)), base.model_dump(mode="json")
    for one in (tree, inherited):
        apply_changes(one, copy.deepcopy(dict(changes)))
    where = f"arm '{arm}'"
    recipes.validate(tree, where)
    try:
        config = recipes.validate(tree, where, model_defaults=True)
    except InputError as error:  # of the look-up of the model, which does not know the arm
        raise InputError(f"{where}: {error}") from error
    own = config.model_dump(mode="json")
    return {
        key: current(own, key)
        for key in (*KEYS, "prompts.source")  # a bundled model has prompts of its own
        if key not in changes and current(own, key) != current(inherited, key)
    }


def settings_text(settings: Mapping[str, Any]) -> str:
    """Keys and values as they are written on the command line.

    >>> settings_text({"model.dtype": "float16", "train.learning_rate": 0.0003, "sample.call": {"height": 512}})
    'model.dtype=float16, train.learning_rate=0.0003, sample.call={"height": 512}'
    """
    return ", ".join(
        f"{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in settings.items()
    )
