"""Everything that is decided before the first run: what is compared, on which seeds, and by which criterion."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import count, islice
from typing import Any

from stepcredit.algorithms import has_clip_range
from stepcredit.comparison.comparison_file import ComparisonFile, Overrides
from stepcredit.comparison.controls import control_arms
from stepcredit.comparison.settings import CLIP_FACTOR, RATE_FACTOR, Setting, around
from stepcredit.comparison.user_files import reward_parts, user_file_digests
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

SHAPES_MODELS = ("embedded", "embedded-flow")
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
        rewards: by name, the overrides of each reward.
        reference: the arm that the others are compared with.
        learning_rates, clip_ranges: the grids; if empty, the value of `base`.
        tuning_seeds: the seeds on which each arm's learning rate and clip range are chosen from the grids.
        fresh_seeds: the seeds on which the arms are compared.
        last_epochs: the criterion is the mean reward over this many last epochs.
        watch: rewards that are measured on every training image but not trained on.
        versions: of the packages that the numbers depend on.
        files: digests of the user's files that the numbers depend on (see `user_file_digests`).
    """

    base: TrainConfig
    arms: Mapping[str, Overrides]
    rewards: Mapping[str, Overrides]
    reference: str
    learning_rates: tuple[float, ...]
    clip_ranges: tuple[float, ...]
    tuning_seeds: tuple[int, ...]
    fresh_seeds: tuple[int, ...]
    last_epochs: int
    watch: tuple[str, ...]
    versions: Mapping[str, str | None]
    files: Mapping[str, str]

    def grid(self, arm: str) -> tuple[Setting, ...]:
        """The settings of an arm: every learning rate with every clip range.

        A value that the arm sets itself is not tuned, nor is the clip range of an algorithm that has none.
        """
        train = self.config(next(iter(self.rewards)), arm, None, 0).train
        clips = _CLIP not in self.arms[arm] and has_clip_range(train.algorithm)
        rates = self.learning_rates if _RATE not in self.arms[arm] else ()
        return tuple(
            Setting(rate, clip)
            for rate in rates or (train.learning_rate,)
            for clip in (self.clip_ranges if clips else ()) or (train.clip_range,)
        )

    def config(self, reward: str, arm: str, setting: Setting | None, seed: int) -> TrainConfig:
        """The configuration of one run. A `setting` of None is the arm's own, or the base's.

        Raises:
            InputError: the configuration refuses an override; the message names the arm and the reward.
        """
        tree = self.base.model_dump(mode="json")
        _apply(tree, self.rewards[reward])
        _apply(tree, self.arms[arm])
        if setting is not None:
            _apply(tree, {_RATE: setting.learning_rate, _CLIP: setting.clip_range})
        _apply(tree, {"run.seed": seed})
        config = recipes.validate(tree, f"arm '{arm}' on reward '{reward}'")
        return config.model_copy(update={"reward": add_watched(config.reward, self.watch)})

    def configs(self) -> list[TrainConfig]:
        """One configuration for every pair of reward and arm."""
        return [self.config(reward, arm, None, 0) for reward in self.rewards for arm in self.arms]

    def tree(self) -> dict[str, Any]:
        """The protocol as plain data, as protocol.yaml holds it."""
        return {
            "base": self.base.model_dump(mode="json"),
            "arms": {name: dict(overrides) for name, overrides in self.arms.items()},
            "rewards": {name: dict(overrides) for name, overrides in self.rewards.items()},
            "reference": self.reference,
            "learning_rates": list(self.learning_rates),
            "clip_ranges": list(self.clip_ranges),
            "tuning_seeds": list(self.tuning_seeds),
            "fresh_seeds": list(self.fresh_seeds),
            "criterion": {"last_epochs": self.last_epochs},
            "watch": list(self.watch),
            "versions": dict(self.versions),
            "files": dict(self.files),
        }


def make_protocol(file: ComparisonFile, versions: Mapping[str, str | None]) -> Protocol:
    """Complete a comparison file, and check that each of its runs can be built.

    Raises:
        InputError: an unknown recipe, credit rule, reward, option or key (the message suggests the nearest one), an
            override in the wrong place, or fewer epochs than the criterion needs.
    """
    base = _base(file)
    arms = {name: _arm(name, given) for name, given in file.arms.items()}
    rewards = {name: _reward(name, given) for name, given in file.named_rewards().items()} or {_label(base.reward): {}}
    watch = _default_watch(base) if file.watch is None else tuple(file.watch)
    rates, clips, tuning_seeds = _grids(file, base)
    protocol = Protocol(
        base=base,
        arms=arms,
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
    )
    configs = {arm: protocol.config(next(iter(rewards)), arm, None, 0) for arm in arms}
    protocol = replace(protocol, arms={**arms, **control_arms(file.controls, base, configs)})
    _require_sound(protocol)
    return replace(protocol, files=user_file_digests(protocol.configs()))


def _grids(file: ComparisonFile, base: TrainConfig) -> tuple[tuple[float, ...], tuple[float, ...], tuple[int, ...]]:
    """Learning rates, clip ranges and tuning seeds. Without tuning seeds there are no default grids."""
    seeds = file.tuning_seeds
    if seeds is None:
        unused = (seed for seed in count(1) if seed not in file.fresh_seeds)
        seeds = list(islice(unused, _TUNING_SEEDS))
    default_rates, default_clips = (
        (around(base.train.learning_rate, RATE_FACTOR), around(base.train.clip_range, CLIP_FACTOR))
        if seeds
        else ((), ())
    )
    rates = default_rates if file.learning_rates is None else tuple(file.learning_rates)
    clips = default_clips if file.clip_ranges is None else tuple(file.clip_ranges)
    return rates, clips, tuple(seeds) if max(len(rates), len(clips)) > 1 else ()


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


def _base(file: ComparisonFile) -> TrainConfig:
    recipe = recipes.load(file.recipe, model_defaults=False)
    tree = recipe.model_dump(mode="json", exclude_unset=True)
    overrides = _flat(file.overrides)
    _refuse(overrides, "overrides", {"run.seed": "tuning_seeds and fresh_seeds"})
    _apply(tree, overrides)
    return recipes.validate(tree, f"overrides of {file.recipe}", model_defaults=True)


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
    on_shapes = base.model.path in SHAPES_MODELS and base.prompts.source in SHAPES_PROMPTS
    return (FAITHFULNESS,) if on_shapes else ()


def _require_sound(protocol: Protocol) -> None:
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
    for part in reward_parts(config.reward):
        if part.remote is None:
            _require_reward(f"reward '{reward}'", part.name, part.options)


def _require_reward(where: str, name: str, options: Mapping[str, Any]) -> None:
    """Check that the reward exists and has these options. It is not built, because that may load weights."""
    try:
        require_reward_options(REWARDS.get(name), name, options)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
