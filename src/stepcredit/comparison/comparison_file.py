"""Comparison files: YAML in which no name is given twice and no key is misspelt."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from stepcredit.errors import InputError, unknown
from stepcredit.runs import recipes

Seed = Annotated[int, Field(ge=0)]
Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Overrides = dict[str, Any]
LAST_EPOCHS = 3
_NAME = re.compile(r"[A-Za-z0-9_+-][A-Za-z0-9_.+-]*")


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Criterion(_Part):
    """What a run is judged by."""

    last_epochs: int = Field(LAST_EPOCHS, ge=1, description="the mean reward of so many last epochs")


class ComparisonFile(_Part):
    """A comparison as it is written; overrides are `section.key: value`, or sections of keys."""

    recipe: str = Field(recipes.DEFAULT, description="recipe name or file, also relative to the comparison file")
    overrides: Overrides = Field({}, description="of the recipe, for every run")
    arms: dict[str, str | Overrides] = Field(min_length=2, description="by name, a credit rule or overrides")
    reference: str = Field(description="the arm that the others are measured against")
    rewards: list[str] | dict[str, str | Overrides] = Field(
        [], description="names, or by name a reward or overrides; empty is the recipe's own"
    )
    learning_rates: list[Rate] = Field([], description="the grid of every arm that has no train.learning_rate")
    tuning_seeds: list[Seed] = Field([], description="on which rates are chosen")
    fresh_seeds: list[Seed] = Field(min_length=1, description="on which arms are compared")
    criterion: Criterion = Criterion()
    watch: list[str] | None = Field(
        None, description="rewards that are measured and not trained on; None is alignment on the shapes world"
    )
    jobs: int | None = Field(None, ge=1, description="runs at a time; None is one per core, or per CUDA device")

    @model_validator(mode="after")
    def _sound(self) -> ComparisonFile:
        _require_names("arms", list(self.arms))
        _require_different("learning_rates", self.learning_rates)
        _require_different("tuning_seeds", self.tuning_seeds)
        _require_different("fresh_seeds", self.fresh_seeds)
        both = [seed for seed in self.tuning_seeds if seed in self.fresh_seeds]
        if both:
            raise ValueError(
                f"tuning_seeds and fresh_seeds share {', '.join(map(str, both))}: a rate chosen on a seed looks better "
                "on it than it is; give fresh seeds of their own"
            )
        if len(self.learning_rates) > 1 and not self.tuning_seeds:
            raise ValueError(f"learning_rates gives {len(self.learning_rates)} to choose from: give tuning_seeds too")
        if self.tuning_seeds and len(self.learning_rates) < 2:
            raise ValueError("tuning_seeds have no learning rates to choose between: give two or more learning_rates")
        if self.reference not in self.arms:
            raise ValueError(str(unknown("reference arm", self.reference, self.arms)))
        return self

    def named_rewards(self) -> dict[str, str | Overrides]:
        """Rewards by the name that folders and tables use; of `module:function` it is the function."""
        if isinstance(self.rewards, dict):
            return self.rewards
        names = [reward.rpartition(":")[2] for reward in self.rewards]
        _require_names("rewards", names)
        return dict(zip(names, self.rewards, strict=True))


def is_comparison(path: Path) -> bool:
    """Whether a YAML file is a comparison.

    Raises:
        InputError: it cannot be read, holds no mapping, or says something twice.
    """
    return recipes.is_comparison(read_mapping(path))


def read_comparison(path: Path, overrides: Sequence[str] = (), jobs: int | None = None) -> ComparisonFile:
    """The comparison in a file, `section.key=value` overrides added to its own.

    Raises:
        InputError: whatever is wrong with it, in one line that names the key.
    """
    tree = read_mapping(path)
    if overrides:
        given = tree.get("overrides") or {}
        tree["overrides"] = {**given, **dict(map(recipes.parsed, overrides))} if isinstance(given, dict) else given
    if jobs is not None:
        tree["jobs"] = jobs
    beside = path.parent / str(tree.get("recipe", ""))
    if beside.is_file():
        tree["recipe"] = str(beside)
    return comparison(tree, str(path))


def comparison(tree: dict[str, Any], where: str) -> ComparisonFile:
    """A mapping as a comparison, or an InputError of one line."""
    try:
        found = ComparisonFile.model_validate(tree)
        _require_names("rewards", list(found.named_rewards()))
    except ValidationError as error:
        raise InputError("; ".join(_complaint(item, where) for item in error.errors()[:3])) from error
    except ValueError as error:
        raise InputError(f"{where}: {error}") from error
    return found


def read_mapping(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file, empty entries left out.

    Raises:
        InputError: it is none, or gives a key twice, of which YAML would keep the last.
    """
    tree = recipes.read_tree(path)
    document = yaml.compose(path.read_text(encoding="utf-8-sig"), yaml.SafeLoader)
    for key in _keys_given_twice(document):
        line = key.start_mark.line + 1
        raise InputError(f"{path} line {line}: '{key.value}' is given twice in one mapping; names must differ")
    return {key: value for key, value in tree.items() if value != {}}


def _keys_given_twice(node: yaml.Node | None) -> Iterator[yaml.ScalarNode]:
    if isinstance(node, yaml.MappingNode):
        seen = set()
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    yield key
                seen.add(key.value)
            yield from _keys_given_twice(value)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            yield from _keys_given_twice(value)


def _require_names(key: str, names: Sequence[str]) -> None:
    """Names become folders, some of them on disks that know no capitals."""
    for name in names:
        if not _NAME.fullmatch(name):
            raise ValueError(
                f"{key} has one called '{name}': a name is made of letters, digits and _ . + -"
                + ("; give rewards as a mapping of names" if key == "rewards" else "")
            )
    _require_different(key, [name.casefold() for name in names], " (capitals do not count)")


def _require_different(key: str, values: Sequence[Hashable], aside: str = "") -> None:
    twice = next((value for value in values if values.count(value) > 1), None)
    if twice is not None:
        raise ValueError(f"{key} has {twice} twice{aside}; each must be given once")


def _complaint(item: Any, where: str) -> str:
    fields = ComparisonFile.model_fields
    if item["type"] == "missing":
        key = ".".join(map(str, item["loc"]))
        return f"{where} has no {key}: {fields[key].description}"
    return recipes.complaint(item, where, fields)
