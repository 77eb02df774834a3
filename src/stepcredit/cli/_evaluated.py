"""What `stepcredit evaluate` was asked for: the prompts of a source, and the rewards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from stepcredit.config import RewardSection
from stepcredit.errors import InputError
from stepcredit.evaluation.measure import PromptSet
from stepcredit.evaluation.source import Source
from stepcredit.prompts import load_prompts, prompt_names
from stepcredit.rewards import CheckedReward, build_reward
from stepcredit.runs import recipes

TRAINING, HELD_OUT = "training", "held-out"
"""What `--prompts` calls the prompts that a run was trained on, and those of the bundled list that goes with them."""


def chosen_prompts(source: Source, asked: Sequence[str]) -> list[PromptSet]:
    """The prompt sets asked for, or those of the run: what it was trained on, and the held-out list where there is one.

    Raises:
        InputError: nothing to evaluate on, or a list or file that is not there or holds no prompts.
    """
    if asked:
        return [_prompt_set(source, name) for name in dict.fromkeys(asked)]
    if not source.trained:
        raise InputError(f"{source.name} is a model, which has no prompts of its own: give --prompts NAME or FILE")
    names = [TRAINING, HELD_OUT] if _twin(source) in prompt_names() else [TRAINING]
    return [_prompt_set(source, name) for name in names]


def _prompt_set(source: Source, name: str) -> PromptSet:
    if name not in (TRAINING, HELD_OUT):
        return PromptSet(name, name, load_prompts(name))
    if not source.trained:
        raise InputError(f"{source.name} is a model, which has no {name} prompts: give --prompts NAME or FILE")
    own, twin = source.config.prompts.source, _twin(source)
    if name == HELD_OUT:
        if twin not in prompt_names():
            raise InputError(f"{source.name} is trained on {own}, which has no held-out list: give --prompts NAME|FILE")
        return PromptSet(name, twin, load_prompts(twin))
    fixed = source.config.prompts.order == "fixed"
    return PromptSet(name, own, load_prompts(own)[: source.config.sample.prompts_per_epoch if fixed else None])


def _twin(source: Source) -> str:
    return f"{source.config.prompts.source}-held-out"


@dataclass(frozen=True)
class Judges:
    """Every reward, loaded once.

    Attributes:
        rewards: by the name that results use.
        trained_on: of each run, by the run's name, which of them it was trained on.
    """

    rewards: Mapping[str, CheckedReward]
    trained_on: Mapping[str, str]


def chosen_rewards(sources: Sequence[Source], asked: Sequence[str]) -> Judges:
    """The rewards that the runs were trained on, then those asked for; equal ones are one.

    Raises:
        InputError: no reward at all, one that cannot be built, or a run was trained on code that was not asked for.
    """
    runs = [source for source in sources if source.trained]
    wanted: dict[str, _Wanted] = {}
    for run in runs:
        _require_named(run, asked)
        wanted.setdefault(_key(run.config.reward), _Wanted(run.config.reward, run.config.reward.name, run.name))
    for text in asked:
        section = _section(text)
        wanted.setdefault(_key(section), _Wanted(section, text, None))
    if not wanted:
        raise InputError(f"{sources[0].name} is a model, which has no reward of its own: give --reward NAME")
    names = _told_apart(wanted)
    rewards = {names[key]: build_reward(reward.section) for key, reward in wanted.items()}
    return Judges(rewards, {run.name: names[_key(run.config.reward)] for run in runs})


def _require_named(run: Source, asked: Sequence[str]) -> None:
    """A run may be somebody else's: code that it was trained on is run if the command line names it too."""
    reward = run.config.reward
    for name in [reward.name, *(part.name for part in reward.components)]:
        if ":" in name and not reward.remote and name not in asked:
            raise InputError(f"{run.name} was trained on code, {name}: to have it run, add --reward {name}")


@dataclass(frozen=True)
class _Wanted:
    """A reward, what it is called, and the first run that was trained on it."""

    section: RewardSection
    name: str
    run: str | None


def _key(section: RewardSection) -> str:
    """Equal for rewards that give equal scores, wherever they are computed."""
    return section.model_dump_json(include={"name", "options", "components", "remote"})


def _told_apart(wanted: Mapping[str, _Wanted]) -> dict[str, str]:
    """A name for each: its own, and where another has the same (with other options) its run's as well."""
    names = [reward.name for reward in wanted.values()]
    return {
        key: f"{reward.name} of {reward.run}" if names.count(reward.name) > 1 and reward.run else reward.name
        for key, reward in wanted.items()
    }


def _section(text: str) -> RewardSection:
    """NAME, `module:function` or `path/file.py:function`, or NAME@URL for one of a reward server."""
    name, at, url = text.partition("@http")
    tree = {"name": name, "remote": f"http{url}"} if at else {"name": text}
    return recipes.validate({"reward": tree}, "the command line").reward
