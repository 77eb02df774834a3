"""Comparison files, and comparisons of rules on a recipe: what the user writes, checked against a schema."""

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
SEEDS = 5
DROP_LAST = "drop-last"
FIRST_TUNING_SEED, FIRST_FRESH_SEED = 1, 101
REFERENCE = "uniform"
_NAME = re.compile(r"[A-Za-z0-9_+-][A-Za-z0-9_.+-]*")


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Criterion(_Section):
    """The figure by which runs are compared."""

    last_epochs: int = Field(LAST_EPOCHS, ge=1, description="the mean reward over this many last epochs")


class EvaluateSection(_Section):
    """How the fresh runs are evaluated after training."""

    prompts: list[str] | None = Field(
        None,
        description="training, held-out, bundled lists or files; null is composition-held-out and "
        "composition-unseen-pairs on the bundled models of the composition world; [] evaluates nothing",
    )
    images: int = Field(1, ge=1, description="images per prompt")
    rewards: list[str] = Field([], description="rewards to measure besides those of the run")


class ComparisonFile(_Section):
    """A comparison as the user writes it. Overrides are `section.key: value`, or sections of keys."""

    recipe: str = Field(recipes.DEFAULT, description="recipe name or file; may be relative to the comparison file")
    overrides: Overrides = Field({}, description="overrides of the recipe, for every run")
    arms: dict[str, str | Overrides] = Field(min_length=2, description="by name, a credit rule or overrides")
    reference: str = Field(description="the arm that the other arms are compared with")
    rewards: list[str] | dict[str, str | Overrides] = Field(
        [], description="reward names, or by name a reward or overrides; if empty, the reward of the recipe"
    )
    controls: list[str] = Field(
        [DROP_LAST], description="credit rules to add as arms if the arms differ in credit; [] adds none"
    )
    learning_rates: list[Rate] | None = Field(
        None,
        description="the grid for every arm that sets no train.learning_rate; null is that of the arm / 3, x 1, x 3",
    )
    clip_ranges: list[Rate] | None = Field(
        None,
        description="the grid for every arm that sets no train.clip_range; null is that of the arm / 5, x 1, x 5",
    )
    tuning_seeds: list[Seed] | None = Field(
        None, description="seeds on which learning rates and clip ranges are chosen; null is two, [] tunes nothing"
    )
    fresh_seeds: list[Seed] = Field(min_length=1, description="seeds on which the arms are compared")
    criterion: Criterion = Criterion()
    watch: list[str] | None = Field(
        None, description="rewards to measure without training on them; null is alignment on the bundled shapes models"
    )
    evaluate: EvaluateSection | None = Field(
        None,
        description="prompts to evaluate the fresh runs on; null evaluates those of the bundled models of the "
        "composition world",
    )
    jobs: int | None = Field(None, ge=1, description="runs at a time; null is one per core, or per CUDA device")

    @model_validator(mode="after")
    def _check(self) -> ComparisonFile:
        _require_names("arms", list(self.arms))
        _require_names("controls", self.controls)
        grids = {"learning_rates": self.learning_rates, "clip_ranges": self.clip_ranges}
        for key, values in grids.items():
            _require_unique(key, values or [])
        _require_unique("tuning_seeds", self.tuning_seeds or [])
        _require_unique("fresh_seeds", self.fresh_seeds)
        if self.evaluate is not None:
            _require_unique("evaluate.prompts", self.evaluate.prompts or [])
            _require_unique("evaluate.rewards", self.evaluate.rewards)
        shared = [seed for seed in self.tuning_seeds or [] if seed in self.fresh_seeds]
        if shared:
            raise ValueError(
                f"tuning_seeds and fresh_seeds share {', '.join(map(str, shared))}: a learning rate looks too good on "
                "the seeds that it was chosen on; give different fresh_seeds"
            )
        for key, values in grids.items():
            if self.tuning_seeds == [] and len(values or []) > 1:
                raise ValueError(f"{key} has {len(values or [])} to choose from: give tuning_seeds too")
        if self.tuning_seeds and all(values is not None and len(values) < 2 for values in grids.values()):
            raise ValueError(
                "tuning_seeds need settings to choose from: give two or more learning_rates or clip_ranges, or leave "
                "tuning_seeds out"
            )
        if self.reference not in self.arms:
            raise ValueError(str(unknown("reference arm", self.reference, self.arms)))
        return self

    def named_rewards(self) -> dict[str, str | Overrides]:
        """Rewards by the name in folders and tables. The name of `module:function` is the function."""
        if isinstance(self.rewards, dict):
            return self.rewards
        names = [reward.rpartition(":")[2] for reward in self.rewards]
        _require_names("rewards", names)
        return dict(zip(names, self.rewards, strict=True))


def is_comparison(path: Path) -> bool:
    """Whether a YAML file is a comparison and not a recipe.

    Raises:
        InputError: it cannot be read, holds no mapping, or gives a key twice.
    """
    return recipes.is_comparison(read_mapping(path))


def read_comparison(path: Path, overrides: Sequence[str] = (), jobs: int | None = None) -> ComparisonFile:
    """Read a comparison file.

    Args:
        overrides: `section.key=value`, added to the overrides of the file.
        jobs: replaces the number in the file.

    Raises:
        InputError: the file is wrong; the message names the key.
    """
    tree = read_mapping(path)
    if overrides:
        given = tree.get("overrides") or {}
        tree["overrides"] = {**given, **dict(map(recipes.parsed, overrides))} if isinstance(given, dict) else given
    if jobs is not None:
        tree["jobs"] = jobs
    relative = path.parent / str(tree.get("recipe", ""))
    if relative.is_file():
        tree["recipe"] = str(relative)
    return parse_comparison(tree, str(path))


def compare_rules(
    recipe: str,
    credit: Sequence[str],
    *,
    overrides: Sequence[str] = (),
    rewards: Sequence[str] = (),
    reference: str | None = None,
    seeds: int | None = None,
    learning_rates: Sequence[float | str] | None = None,
    clip_ranges: Sequence[float | str] | None = None,
    tuning_seeds: int | None = None,
    controls: Sequence[str] | None = None,
    last_epochs: int | None = None,
    watch: Sequence[str] | None = None,
    jobs: int | None = None,
    where: str = "compare_rules",
) -> ComparisonFile:
    """A comparison of credit rules on a recipe.

    Args:
        recipe: a recipe name or file.
        credit: the rules to compare, at least two.
        overrides: `section.key=value`, for every run.
        rewards: rewards to compare on; if empty, the reward of the recipe.
        reference: the rule that the others are compared with; by default `uniform` if it is in `credit`, otherwise the
            first rule.
        seeds: number of fresh seeds, 5 by default.
        learning_rates: the grid from which each rule gets its best rate. None is the rate of the recipe, a third of it
            and three times it. If empty, all rules use the rate of the recipe.
        clip_ranges: likewise. None is the clip range of the recipe, a fifth of it and five times it.
        tuning_seeds: number of seeds on which both are chosen, 2 by default. With 0, nothing is tuned.
        controls: rules that are added to `credit`, `drop-last` by default.
        last_epochs: the criterion is the mean reward over this many last epochs, 3 by default.
        watch: rewards to measure without training on them.
        jobs: runs at a time.
        where: what error messages name as the place of a mistake.

    Raises:
        InputError: a mistake in the arguments.
    """
    tree = {
        "recipe": recipe,
        "overrides": dict(map(recipes.parsed, overrides)),
        "arms": {name: name for name in credit},
        "reference": reference or (REFERENCE if REFERENCE in credit else next(iter(credit), "")),
        "rewards": list(rewards),
        "learning_rates": None if learning_rates is None else list(learning_rates),
        "clip_ranges": None if clip_ranges is None else list(clip_ranges),
        "tuning_seeds": None
        if tuning_seeds is None
        else list(range(FIRST_TUNING_SEED, FIRST_TUNING_SEED + tuning_seeds)),
        **({} if controls is None else {"controls": list(controls)}),
        "fresh_seeds": list(range(FIRST_FRESH_SEED, FIRST_FRESH_SEED + (SEEDS if seeds is None else seeds))),
        "criterion": {} if last_epochs is None else {"last_epochs": last_epochs},
        "watch": None if watch is None else list(watch),
        "jobs": jobs,
    }
    return parse_comparison(tree, where)


def parse_comparison(tree: dict[str, Any], where: str) -> ComparisonFile:
    """Validate a mapping.

    Args:
        where: the file or the command line, for error messages.

    Raises:
        InputError: a mistake; the message has one line.
    """
    try:
        file = ComparisonFile.model_validate(tree)
        _require_names("rewards", list(file.named_rewards()))
    except ValidationError as error:
        raise InputError("; ".join(_complaint(item, where) for item in error.errors()[:3])) from error
    except ValueError as error:
        raise InputError(f"{where}: {error}") from error
    return file


def read_mapping(path: Path) -> dict[str, Any]:
    """Read the mapping in a YAML file, without its empty entries.

    Raises:
        InputError: the file holds no mapping, or gives a key twice (YAML would silently use the last one).
    """
    tree = recipes.read_tree(path)
    document = yaml.compose(path.read_text(encoding="utf-8-sig"), yaml.SafeLoader)
    for key in _duplicate_keys(document):
        line = key.start_mark.line + 1
        raise InputError(f"{path} line {line}: '{key.value}' is given twice in one mapping; rename or delete one")
    return {key: value for key, value in tree.items() if value != {}}


def _duplicate_keys(node: yaml.Node | None) -> Iterator[yaml.ScalarNode]:
    if isinstance(node, yaml.MappingNode):
        seen = set()
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    yield key
                seen.add(key.value)
            yield from _duplicate_keys(value)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            yield from _duplicate_keys(value)


def _require_names(key: str, names: Sequence[str]) -> None:
    """Names are used as folder names, also on file systems that ignore case."""
    for name in names:
        if not _NAME.fullmatch(name):
            raise ValueError(
                f"{key} has '{name}', which cannot be a folder name: use letters, digits and _ . + -"
                + ("; to name a reward, give rewards as a mapping" if key == "rewards" else "")
            )
    _require_unique(key, [name.casefold() for name in names], " (upper and lower case are the same)")


def _require_unique(key: str, values: Sequence[Hashable], note: str = "") -> None:
    duplicate = next((value for value in values if values.count(value) > 1), None)
    if duplicate is not None:
        raise ValueError(f"{key} has {duplicate} twice{note}; give each once")


def _complaint(item: Any, where: str) -> str:
    fields = ComparisonFile.model_fields
    if item["type"] == "missing":
        key = ".".join(map(str, item["loc"]))
        return f"{where} has no {key}: {fields[key].description}"
    sections: dict[str, type[_Section]] = {"criterion": Criterion, "evaluate": EvaluateSection}
    inner = [f"{key}.{name}" for key, section in sections.items() for name in section.model_fields]
    return recipes.complaint(item, where, [*fields, *inner])
