"""Everything that is decided before the first run: what is compared, on which seeds, and by which criterion."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import count, islice
from typing import Any

from stepcredit.algorithms import has_clip_range
from stepcredit.bundled import world_of
from stepcredit.comparison.arm_defaults import own_defaults
from stepcredit.comparison.comparison_file import ComparisonFile, Overrides
from stepcredit.comparison.controls import control_arms
from stepcredit.comparison.evaluation_plan import EvaluationPlan, make_plan, require_prompt_sets
from stepcredit.comparison.settings import CLIP_FACTOR, RATE_FACTOR, Setting, around, choices
from stepcredit.comparison.user_files import user_file_digests
from stepcredit.config import MIXTURE, RewardSection, TrainConfig
from stepcredit.credit import build_credit
from stepcredit.errors import InputError
from stepcredit.plugins import load_plugins
from stepcredit.prompts import load_prompts
from stepcredit.rewards import REWARDS
from stepcredit.rewards.core.definition import require_reward_options
from stepcredit.runs import recipes
from stepcredit.runs.changes import apply_changes
from stepcredit.training.learnable import require_advantages

SHAPES_PROMPTS = ("shapes", "shapes-held-out")
FAITHFULNESS = "alignment"
_RATE, _CLIP = "train.learning_rate", "train.clip_range"
_TUNING_SEEDS = 2


@dataclass(frozen=True)
class Protocol:
    """A complete comparison. On one machine, equal protocols give equal numbers, if the weights of rewards are equal.

    Attributes:
        base: the configuration that every run starts from.
        arms: by name, the overrides of each arm, as `section.key`.
        model_defaults: by name, the defaults of the arms that have other ones than `base` (see `own_defaults`), without
            those that a grid replaces.
        rewards: by name, the overrides of each reward.
        reference: the arm that the others are compared with.
        learning_rates, clip_ranges: the grids. None is a grid around the value of each arm; if empty, that value.
        tuning_seeds: the seeds on which each arm's learning rate and clip range are chosen from the grids.
        fresh_seeds: the seeds on which the arms are compared.
        last_epochs: the criterion is the mean reward over this many last epochs.
        watch: rewards that are measured on every training image but not trained on.
        versions: of the packages that the numbers depend on.
        files: digests of the user's files that the numbers depend on (see `user_file_digests`).
        evaluate: how the fresh runs are evaluated after training; None does not.
    """

    base: TrainConfig
    arms: Mapping[str, Overrides]
    model_defaults: Mapping[str, Overrides]
    rewards: Mapping[str, Overrides]
    reference: str
    learning_rates: tuple[float, ...] | None
    clip_ranges: tuple[float, ...] | None
    tuning_seeds: tuple[int, ...]
    fresh_seeds: tuple[int, ...]
    last_epochs: int
    watch: tuple[str, ...]
    versions: Mapping[str, str | None]
    files: Mapping[str, str]
    evaluate: EvaluationPlan | None = None

    def grid(self, arm: str) -> tuple[Setting, ...]:
        """The settings of an arm: every learning rate with every clip range.

        A value that the arm sets itself is not tuned, nor is the clip range of an algorithm that has none.
        """
        train = self.config(next(iter(self.rewards)), arm, None, 0).train
        grids = self.grids(arm)
        return tuple(
            Setting(rate, clip)
            for rate in choices(grids[_RATE], train.learning_rate, RATE_FACTOR)
            for clip in choices(grids[_CLIP], train.clip_range, CLIP_FACTOR)
        )

    def grids(self, arm: str) -> dict[str, tuple[float, ...] | None]:
        """By key, the grid of an arm. None is one around its own value; it is empty for a value that is not tuned."""
        overrides = self.arms[arm]
        clips = _CLIP not in overrides and has_clip_range(overrides.get("train.algorithm", self.base.train.algorithm))
        return {_RATE: () if _RATE in overrides else self.learning_rates, _CLIP: self.clip_ranges if clips else ()}

    def config(self, reward: str, arm: str, setting: Setting | None, seed: int) -> TrainConfig:
        """The configuration of one run. A `setting` of None is the arm's own, or that of its model, or the base's.

        Raises:
            InputError: the configuration refuses an override; the message names the arm and the reward.
        """
        tree = self.base.model_dump(mode="json")
        _apply(tree, self.rewards[reward])
        _apply(tree, self.arms[arm])
        _apply(tree, self.model_defaults.get(arm, {}))
        if setting is not None:
            _apply(tree, {_RATE: setting.learning_rate, _CLIP: setting.clip_range})
        _apply(tree, {"run.seed": seed})
        config = recipes.validate(tree, f"arm '{arm}' on reward '{reward}'")
        return config.model_copy(update={"reward": add_watched(config.reward, self.watch)})

    def configs(self) -> list[TrainConfig]:
        """One configuration for every pair of reward and arm."""
        return [self.config(reward, arm, None, 0) for reward in self.rewards for arm in self.arms]

    def file_digests(self) -> dict[str, str]:
        """What `files` is at present.

        Raises:
            InputError: a file cannot be read.
        """
        if self.evaluate is None:
            return user_file_digests(self.configs())
        return user_file_digests(self.configs(), self.evaluate.lists(), self.evaluate.rewards)

    def tree(self) -> dict[str, Any]:
        """The protocol as plain data, as protocol.yaml holds it.

        `model_defaults` and `grids` are there only if an arm has other defaults than the base, `evaluate` only if the
        runs are evaluated.
        """
        train = self.base.train
        return {
            "base": self.base.model_dump(mode="json"),
            "arms": {name: dict(overrides) for name, overrides in self.arms.items()},
            **self._model_defaults(),
            "rewards": {name: dict(overrides) for name, overrides in self.rewards.items()},
            "reference": self.reference,
            "learning_rates": _listed(self.learning_rates, train.learning_rate, RATE_FACTOR),
            "clip_ranges": _listed(self.clip_ranges, train.clip_range, CLIP_FACTOR),
            "tuning_seeds": list(self.tuning_seeds),
            "fresh_seeds": list(self.fresh_seeds),
            "criterion": {"last_epochs": self.last_epochs},
            "watch": list(self.watch),
            **({"evaluate": self.evaluate.tree()} if self.evaluate else {}),
            "versions": dict(self.versions),
            "files": dict(self.files),
        }

    def _model_defaults(self) -> dict[str, Any]:
        if not self.model_defaults:
            return {}
        grids = {arm: self.grid(arm) for arm, values in self.model_defaults.items() if {_RATE, _CLIP} & values.keys()}
        return {
            "model_defaults": {arm: dict(values) for arm, values in self.model_defaults.items()},
            "grids": {
                arm: {
                    "learning_rates": sorted({setting.learning_rate for setting in grid}),
                    "clip_ranges": sorted({setting.clip_range for setting in grid}),
                }
                for arm, grid in grids.items()
            },
        }


def make_protocol(file: ComparisonFile, versions: Mapping[str, str | None]) -> Protocol:
    """Complete a comparison file, and check that each of its runs can be built.

    Raises:
        InputError: an unknown recipe, credit rule, reward, option or key (the message suggests the nearest one), an
            override in the wrong place, or fewer epochs than the criterion needs.
    """
    given = _given(file)
    base = recipes.validate(given, f"overrides of {file.recipe}", model_defaults=True)
    arms = {name: _arm(name, changes) for name, changes in file.arms.items()}
    rewards = {name: _reward(name, part) for name, part in file.named_rewards().items()} or {_label(base.reward): {}}
    watch = _default_watch(base) if file.watch is None else tuple(file.watch)
    rates, clips, tuning_seeds = _grids(file)
    protocol = Protocol(
        base=base,
        arms=arms,
        model_defaults={},
        rewards=rewards,
        reference=file.reference,
        learning_rates=rates,
        clip_ranges=clips,
        tuning_seeds=tuning_seeds,
        fresh_seeds=tuple(file.fresh_seeds),
        last_epochs=file.criterion.last_epochs,
        watch=watch,
        versions=versions,
        files={},
        evaluate=make_plan(file.evaluate, base),
    )
    # These lack the arms' own defaults, because a window that follows from the model is not another credit.
    configs = {arm: protocol.config(next(iter(rewards)), arm, None, 0) for arm in arms}
    protocol = replace(
        protocol,
        arms={**arms, **control_arms(file.controls, base, configs)},
        model_defaults=_own_defaults(protocol, given),
    )
    _require_sound(protocol)
    return replace(protocol, files=protocol.file_digests())


def _own_defaults(protocol: Protocol, given: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """`Protocol.model_defaults`."""
    found = {}
    for arm, changes in protocol.arms.items():
        replaced = [key for key, grid in protocol.grids(arm).items() if grid]
        own = own_defaults(given, protocol.base, arm, changes)
        found[arm] = {key: value for key, value in own.items() if key not in replaced}
    return {arm: values for arm, values in found.items() if values}


def _grids(file: ComparisonFile) -> tuple[tuple[float, ...] | None, tuple[float, ...] | None, tuple[int, ...]]:
    """Learning rates, clip ranges and tuning seeds. Without tuning seeds there are no default grids."""
    seeds = file.tuning_seeds
    if seeds is None:
        unused = (seed for seed in count(1) if seed not in file.fresh_seeds)
        seeds = list(islice(unused, _TUNING_SEEDS))
    default = None if seeds else ()
    rates = default if file.learning_rates is None else tuple(file.learning_rates)
    clips = default if file.clip_ranges is None else tuple(file.clip_ranges)
    tuned = any(grid is None or len(grid) > 1 for grid in (rates, clips))
    return rates, clips, tuple(seeds) if tuned else ()


def _listed(grid: tuple[float, ...] | None, own: float, factor: float) -> list[float]:
    """A grid as protocol.yaml holds it: that of the base, if every arm has one of its own."""
    return list(around(own, factor) if grid is None else grid)


def add_watched(reward: RewardSection, watch: tuple[str, ...]) -> RewardSection:
    """Add rewards of weight 0. Training stays the same bit for bit.

    Raises:
        InputError: a watched reward has the label of another reward.
    """
    components = [component.model_dump() for component in reward.components] or [
        {"name": reward.name, "options": reward.options, "remote": reward.remote, "standardize": "none"}
    ]
    names = {part.called: part.name for part in reward.components} or {_label(reward): reward.name}
    watched = []
    for name in watch:
        label = name.rpartition(":")[2]
        if label not in names:
            watched.append({"name": name, "weight": 0.0, "standardize": "none"})
        elif names[label] != name:
            raise InputError(
                f"watched reward '{name}' and reward '{names[label]}' are both labeled '{label}'; rename one of them"
            )
        names[label] = name
    if not watched:
        return reward
    kept = reward.model_dump(exclude={"name", "options", "remote", "components"})
    return RewardSection.model_validate({**kept, "name": MIXTURE, "components": [*components, *watched]})


def _given(file: ComparisonFile) -> dict[str, Any]:
    """The keys that the recipe and the overrides for every run set, by section."""
    recipe = recipes.load(file.recipe, model_defaults=False)
    tree = recipe.model_dump(mode="json", exclude_unset=True)
    overrides = _flat(file.overrides)
    _refuse(overrides, "overrides", {"run.seed": "tuning_seeds and fresh_seeds"})
    _apply(tree, overrides)
    return tree


def _arm(name: str, given: str | Overrides) -> Overrides:
    overrides = {"credit.name": given} if isinstance(given, str) else _flat(given)
    _refuse(overrides, f"arm '{name}'", {"run.seed": "tuning_seeds and fresh_seeds", "reward.": "rewards"})
    return overrides


def _reward(name: str, given: str | Overrides) -> Overrides:
    overrides = {"reward.name": given} if isinstance(given, str) else _flat(given)
    other = next((key for key in overrides if not key.startswith("reward.")), None)
    if other is not None:
        raise InputError(f"reward '{name}' overrides {other}: only keys of the reward section may differ by reward")
    return overrides


def _refuse(overrides: Overrides, where: str, places: Mapping[str, str]) -> None:
    """Refuse keys that belong elsewhere in the comparison file; `places` is by key, or by prefix with a final dot."""
    for key in overrides:
        for prefix, place in places.items():
            if key == prefix or (prefix.endswith(".") and key.startswith(prefix)):
                raise InputError(f"{key} does not belong in {where}: give it under {place}")


def _flat(overrides: Overrides) -> Overrides:
    """Write sections of keys as `section.key`."""
    flat: Overrides = {}
    for key, value in overrides.items():
        if key in TrainConfig.model_fields and isinstance(value, dict):
            flat |= {f"{key}.{inner}": one for inner, one in value.items()}
        else:
            flat[key] = value
    return flat


def _apply(tree: dict[str, Any], overrides: Overrides) -> None:
    apply_changes(tree, copy.deepcopy(overrides))


def _label(reward: RewardSection) -> str:
    return reward.name.rpartition(":")[2]


def _default_watch(base: TrainConfig) -> tuple[str, ...]:
    """The checker of the shapes world, if its model and its captions are used."""
    on_shapes = world_of(base.model.path) == "shapes" and base.prompts.source in SHAPES_PROMPTS
    return (FAITHFULNESS,) if on_shapes else ()


def _require_sound(protocol: Protocol) -> None:
    load_plugins(protocol.base.run.plugins)
    for name in protocol.watch:
        _require_reward(f"watched reward '{name}'", name, {})
    for reward in protocol.rewards:
        for arm in protocol.arms:
            config = protocol.config(reward, arm, None, 0)
            _require_parts(reward, arm, config)
            if config.train.epochs < protocol.last_epochs:
                raise InputError(
                    f"the criterion is the mean of the last {protocol.last_epochs} epochs, but train.epochs of arm "
                    f"'{arm}' is {config.train.epochs}: raise it, or lower criterion.last_epochs (--last-epochs)"
                )
    _require_different_arms(protocol)
    if protocol.evaluate is not None:
        require_prompt_sets(protocol.evaluate, protocol.configs())
        for name in protocol.evaluate.rewards:
            if "@http" not in name:
                _require_reward("evaluate.rewards", name, {})


def _require_different_arms(protocol: Protocol) -> None:
    """Two equal arms would look like two settings that agree."""
    reward, seen = next(iter(protocol.rewards)), dict[tuple[str, tuple[Setting, ...]], str]()
    for arm in protocol.arms:
        identity = protocol.config(reward, arm, protocol.grid(arm)[0], 0).model_dump_json(), protocol.grid(arm)
        first = seen.setdefault(identity, arm)
        if first != arm:
            raise InputError(f"arms '{first}' and '{arm}' are the same; remove one of them")


def _require_parts(reward: str, arm: str, config: TrainConfig) -> None:
    try:
        load_plugins(config.run.plugins)
        build_credit(config.credit)
        require_advantages(config, load_prompts(config.prompts.source))
    except InputError as error:
        raise InputError(f"arm '{arm}': {error}") from error
    for part in config.reward.parts:
        if part.remote is None:
            _require_reward(f"reward '{reward}'", part.name, part.options)


def _require_reward(where: str, name: str, options: Mapping[str, Any]) -> None:
    """Check that the reward exists and has these options. It is not built, because that may load weights."""
    try:
        require_reward_options(REWARDS.get(name), name, options)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
