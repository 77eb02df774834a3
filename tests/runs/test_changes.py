"""A part that replaces another does not inherit what belongs to it, wherever the change comes from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from stepcredit import Trainer
from stepcredit.config import TrainConfig
from stepcredit.runs import recipes
from stepcredit.runs.changes import apply_changes, put

PICKSCORE = {"reward": {"name": "pickscore", "options": {"dtype": "bfloat16"}}}
MIXED = {"reward": {"components": [{"name": "warmth"}, {"name": "alignment"}]}}
DISCOUNT = {"credit": {"name": "discount", "options": {"gamma": 0.9}}}
MATCHING = {"train": {"algorithm": "matching", "options": {"beta": 0.5}}}
OWN = {"reward": {"name": "old.py:score", "options": {"scale": 2}}}

REPLACED = [
    (PICKSCORE, {"reward.name": "warmth"}, "reward.options", {}),
    (PICKSCORE, {"reward.name": "pickscore"}, "reward.options", {"dtype": "bfloat16"}),
    (PICKSCORE, {"reward.name": "mine.py:f", "reward.options": {"a": 1}}, "reward.options", {"a": 1}),
    (PICKSCORE, {"reward.name": "mine.py:f", "reward.options.a": 1}, "reward.options", {"a": 1}),
    (PICKSCORE, {"reward.components": [{"name": "warmth"}]}, "reward.name", "mixture"),
    (PICKSCORE, {"reward.components": [{"name": "warmth"}]}, "reward.options", {}),
    (MIXED, {"reward.name": "jpeg_compressibility"}, "reward.components", []),
    (OWN, {"reward.name": "new/place.py:score"}, "reward.options", {"scale": 2}),
    (OWN, {"reward.name": "old.py:other"}, "reward.options", {}),
    (DISCOUNT, {"credit.name": "uniform"}, "credit.options", {}),
    (MATCHING, {"train.algorithm": "ppo"}, "train.options", {}),
]


@pytest.mark.parametrize(("tree", "changes", "key", "expected"), REPLACED)
def test_a_new_part_starts_without_the_keys_of_the_old_one(
    tree: dict[str, Any], changes: dict[str, Any], key: str, expected: object, tmp_path: Path
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(tree))
    overrides = [f"{name}={json.dumps(value)}" for name, value in changes.items()]
    assert _at(recipes.load(recipe, overrides), key) == expected
    sections: dict[str, Any] = {}
    for name, value in changes.items():
        put(sections, name, value)
    assert _at(Trainer(config=str(recipe), **sections).config, key) == expected


def test_a_change_to_nothing_known_is_left_to_the_validation() -> None:
    tree: dict[str, Any] = {"reward": 3}
    apply_changes(tree, {"run.seed": 5})
    assert tree == {"reward": 3, "run": {"seed": 5}}


@pytest.mark.parametrize(
    "name", [name for name in recipes.packaged() if not name.startswith(("bench", "better", "scr"))]
)
def test_every_recipe_accepts_another_reward(name: str) -> None:
    reward = recipes.load(name, ["reward.name=mine.py:score"], model_defaults=False).reward
    assert (reward.name, reward.options, reward.components) == ("mine.py:score", {}, [])


def _at(config: TrainConfig, key: str) -> Any:
    section, _, name = key.partition(".")
    return getattr(getattr(config, section), name)
