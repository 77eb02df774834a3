"""All that is decided before the first run: what is compared, on which seeds, and what counts."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from stepcredit.comparison.comparison_file import ComparisonFile, Overrides
from stepcredit.comparison.user_files import own_files, parts_of
from stepcredit.config import MIXTURE, RewardSection, TrainConfig
from stepcredit.credit import build_credit
from stepcredit.errors import InputError
from stepcredit.plugins import load_plugins
from stepcredit.prompts import load_prompts
from stepcredit.registry import require_options
from stepcredit.rewards import REWARDS
from stepcredit.rewards.core.user import load_user_reward
from stepcredit.runs import recipes

EMBEDDED = ("embedded", "embedded-flow")
CAPTIONS = ("shapes", "shapes-held-out")
FAITHFULNESS = "alignment"
_RATE = "train.learning_rate"


@dataclass(frozen=True)
class Protocol:
    """A comparison, complete: equal protocols give equal numbers on one machine, if what rewards load stays as it is.

    Attributes:
        base: the configuration that every run starts from.
        arms: by name, what each changes in it, as `section.key`.
        rewards: by name, what each changes in it.
        reference: the arm that the others are measured against.
        learning_rates: the grid; empty is the base's own rate.
        tuning_seeds: on which every arm's rate is chosen from the grid.
        fresh_seeds: on which the arms are compared.
        last_epochs: the criterion is the mean reward of so many.
        watch: rewards that are measured on every training image and not trained on.
        versions: of the packages that the numbers depend on.
        files: the user's own that they depend on, code of rewards and prompts, see `own_files`.
    """

    base: TrainConfig
    arms: Mapping[str, Overrides]
    rewards: Mapping[str, Overrides]
    reference: str
    learning_rates: tuple[float, ...]
    tuning_seeds: tuple[int, ...]
    fresh_seeds: tuple[int, ...]
    last_epochs: int
    watch: tuple[str, ...]
    versions: Mapping[str, str | None]
    files: Mapping[str, str]

    def grid(self, arm: str) -> tuple[float, ...]:
        """The learning rates of an arm: the grid, or the one it gives itself, or the recipe's."""
        own = self.arms[arm].get(_RATE)
        if own is not None:
            return (self.config(next(iter(self.rewards)), arm, None, 0).train.learning_rate,)
        return self.learning_rates or (self.base.train.learning_rate,)

    def config(self, reward: str, arm: str, rate: float | None, seed: int) -> TrainConfig:
        """The configuration of one run; with no rate the arm's own, or the recipe's.

        Raises:
            InputError: an override that the configuration refuses, with the arm's or the reward's name.
        """
        tree = self.base.model_dump(mode="json")
        _apply(tree, self.rewards[reward])
        where = f"arm '{arm}' on reward '{reward}'"
        _apply(tree, self.arms[arm])
        if rate is not None:
            _apply(tree, {_RATE: rate})
        _apply(tree, {"run.seed": seed})
        found = recipes.validate(tree, where)
        return found.model_copy(update={"reward": watching(found.reward, self.watch)})

    def configs(self) -> list[TrainConfig]:
        """One of every pair of reward and arm."""
        return [self.config(reward, arm, None, 0) for reward in self.rewards for arm in self.arms]

    def tree(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "base": self.base.model_dump(mode="json"),
            "arms": {name: dict(overrides) for name, overrides in self.arms.items()},
            "rewards": {name: dict(overrides) for name, overrides in self.rewards.items()},
            "reference": self.reference,
            "learning_rates": list(self.learning_rates),
            "tuning_seeds": list(self.tuning_seeds),
            "fresh_seeds": list(self.fresh_seeds),
            "criterion": {"last_epochs": self.last_epochs},
            "watch": list(self.watch),
            "versions": dict(self.versions),
            "files": dict(self.files),
        }


def make_protocol(file: ComparisonFile, versions: Mapping[str, str | None]) -> Protocol:
    """The protocol of a comparison file, every run of which can be built.

    Raises:
        InputError: an unknown recipe, credit rule, reward, option or key (the nearest one is named), an override that
            is not an arm's to make, or fewer epochs than the criterion asks for.
    """
    base = _base(file)
    arms = {name: _arm(name, given) for name, given in file.arms.items()}
    rewards = {name: _reward(name, given) for name, given in file.named_rewards().items()} or {_called(base.reward): {}}
    watch = _watch(base) if file.watch is None else tuple(file.watch)
    seeds = tuple(file.tuning_seeds), tuple(file.fresh_seeds)
    grid, last = tuple(file.learning_rates), file.criterion.last_epochs
    protocol = Protocol(base, arms, rewards, file.reference, grid, *seeds, last, watch, versions, {})
    _require_sound(protocol)
    return replace(protocol, files=own_files(protocol.configs()))


def watching(reward: RewardSection, watch: tuple[str, ...]) -> RewardSection:
    """The same reward with others beside it that weigh nothing: training is the same, bit by bit.

    Raises:
        InputError: a watched reward would be called what another one is.
    """
    own = [component.model_dump() for component in reward.components] or [
        {"name": reward.name, "options": reward.options, "remote": reward.remote, "standardize": "none"}
    ]
    known = {part.called: part.name for part in reward.components} or {_called(reward): reward.name}
    beside = []
    for name in watch:
        called = name.rpartition(":")[2]
        if called not in known:
            beside.append({"name": name, "weight": 0.0, "standardize": "none"})
        elif known[called] != name:
            raise InputError(f"watched reward '{name}': '{known[called]}' is called '{called}' too; rename one of them")
        known[called] = name
    if not beside:
        return reward
    kept = reward.model_dump(exclude={"name", "options", "remote", "components"})
    return RewardSection.model_validate({**kept, "name": MIXTURE, "components": [*own, *beside]})


def _base(file: ComparisonFile) -> TrainConfig:
    tree = recipes.load(file.recipe).model_dump(mode="json")
    overrides = _flat(file.overrides)
    _refuse(overrides, "overrides", {"run.seed": "tuning_seeds and fresh_seeds"})
    _apply(tree, overrides)
    return recipes.validate(tree, f"overrides of {file.recipe}")


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


def _refuse(overrides: Overrides, where: str, elsewhere: Mapping[str, str]) -> None:
    for key in overrides:
        for prefix, place in elsewhere.items():
            if key == prefix or (prefix.endswith(".") and key.startswith(prefix)):
                raise InputError(f"{key} does not belong in {where}: give it under {place}")


def _flat(overrides: Overrides) -> Overrides:
    """Sections of keys as `section.key`."""
    flat: Overrides = {}
    for key, value in overrides.items():
        inside = {f"{key}.{inner}": one for inner, one in value.items()} if _is_section(key, value) else {key: value}
        flat |= inside
    return flat


def _is_section(key: str, value: Any) -> bool:
    return key in TrainConfig.model_fields and isinstance(value, dict)


def _apply(tree: dict[str, Any], overrides: Overrides) -> None:
    """Put overrides into a complete configuration. Options of another rule or reward go with its name."""
    for key, follow in (("credit.name", ("options",)), ("reward.name", ("options", "components"))):
        section, _, name = key.partition(".")
        if key in overrides and overrides[key] != tree[section][name]:
            tree[section] |= {part: [] if part == "components" else {} for part in follow}
    if "reward.components" in overrides:
        tree["reward"] |= {"name": MIXTURE, "options": {}}
    for key, value in overrides.items():
        recipes.put(tree, key, copy.deepcopy(value))


def _called(reward: RewardSection) -> str:
    return reward.name.rpartition(":")[2]


def _watch(base: TrainConfig) -> tuple[str, ...]:
    """The checker of the shapes world where it can judge, which is where prompts are its captions."""
    return (FAITHFULNESS,) if base.model.path in EMBEDDED and base.prompts.source in CAPTIONS else ()


def _require_sound(protocol: Protocol) -> None:
    _require_different(protocol)
    for name in protocol.watch:
        _require_reward(f"watched reward '{name}'", name, {})
    for reward in protocol.rewards:
        for arm in protocol.arms:
            config = protocol.config(reward, arm, None, 0)
            _require_parts(reward, arm, config)
            if config.train.epochs < protocol.last_epochs:
                raise InputError(
                    f"the criterion is the mean of the last {protocol.last_epochs} epochs, but arm '{arm}' has "
                    f"{config.train.epochs}: lower criterion.last_epochs"
                )


def _require_different(protocol: Protocol) -> None:
    """Two names for one thing would look like two things that agree."""
    reward, seen = next(iter(protocol.rewards)), dict[tuple[str, tuple[float, ...]], str]()
    for arm in protocol.arms:
        whole = protocol.config(reward, arm, protocol.grid(arm)[0], 0).model_dump_json(), protocol.grid(arm)
        twin = seen.setdefault(whole, arm)
        if twin != arm:
            raise InputError(f"arms '{twin}' and '{arm}' are the same; leave one of them out")


def _require_parts(reward: str, arm: str, config: TrainConfig) -> None:
    try:
        load_plugins(config.run.plugins)
        build_credit(config.credit)
        load_prompts(config.prompts.source)
    except InputError as error:
        raise InputError(f"arm '{arm}': {error}") from error
    for part in parts_of(config.reward):
        if part.remote is None:
            _require_reward(f"reward '{reward}'", part.name, part.options)


def _require_reward(where: str, name: str, options: Mapping[str, Any]) -> None:
    """The reward is there; it is not built, because that may load weights."""
    try:
        if ":" in name:
            load_user_reward(name, options)
        else:
            require_options(REWARDS.get(name), name, options)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
