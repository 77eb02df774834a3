"""Rewards to evaluate with: those that the runs were trained on, then any others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from stepcredit.config import RewardSection
from stepcredit.errors import InputError
from stepcredit.evaluation.source import Source
from stepcredit.rewards import CheckedReward, build_reward
from stepcredit.runs import recipes


@dataclass(frozen=True)
class RewardSet:
    """Rewards, each loaded once.

    Attributes:
        rewards: by the name in tables.
        trained_on: for each run, by its name, the name of the reward that it was trained on. A reward that a Python
            program made is not in `rewards`.
    """

    rewards: Mapping[str, CheckedReward]
    trained_on: Mapping[str, str]


@dataclass(frozen=True)
class _Choice:
    """A reward to build.

    Attributes:
        name: as the configuration or the user writes it.
        run: the first run that was trained on it; None if it was only asked for.
    """

    section: RewardSection
    name: str
    run: str | None


def choose_rewards(sources: Sequence[Source], names: Sequence[str]) -> RewardSet:
    """Build the rewards that the runs were trained on, then those in `names`. Equal rewards are built once.

    A reward that a Python program made cannot be built and is left out. Code in `names` that a run was trained on is
    measured as the run used it.

    Args:
        names: registered names, NAME@URL for a reward server, `module:function` or `path/file.py:function`.

    Raises:
        InputError: no reward at all, one that cannot be built, or a run trained on user code that is not in `names`.
    """
    runs = [source for source in sources if source.is_run]
    named = [run for run in runs if "reward.name" not in run.config.python_objects]
    choices: dict[str, _Choice] = {}
    for run in named:
        _require_named(run, names)
        reward = run.config.reward
        choices.setdefault(_identity(reward), _Choice(reward, reward.name, run.name))
    used = {code for run in named for code in run.config.reward.own_code}
    for name in names:
        if name in used:
            continue
        section = _section(name)
        choices.setdefault(_identity(section), _Choice(section, name, None))
    if not choices and runs:
        raise InputError(
            f"{runs[0].name} was trained on a reward that a Python program made ({runs[0].config.reward.name}): give "
            "--reward NAME, or evaluate it in Python"
        )
    if not choices:
        raise InputError(f"{sources[0].name} is a model, which has no reward of its own: give --reward NAME")
    labels = _unique_names(choices)
    rewards = {labels[key]: build_reward(choice.section) for key, choice in choices.items()}
    trained_on = {run.name: labels.get(_identity(run.config.reward), run.config.reward.name) for run in runs}
    return RewardSet(rewards, trained_on)


def _require_named(run: Source, names: Sequence[str]) -> None:
    """The run may come from somebody else, so user code that it was trained on runs only if the user names it."""
    for name in run.config.reward.own_code:
        if name not in names:
            raise InputError(f"{run.name} was trained on code, {name}: to run this code, add --reward {name}")


def _identity(section: RewardSection) -> str:
    """Equal for rewards that give equal scores, on this machine or on a server."""
    return section.model_dump_json(include={"name", "options", "components", "remote"})


def _unique_names(choices: Mapping[str, _Choice]) -> dict[str, str]:
    """A label for each reward: its name, or `NAME of RUN` where rewards with other options have the same name."""
    names = [choice.name for choice in choices.values()]
    return {
        key: f"{choice.name} of {choice.run}" if names.count(choice.name) > 1 and choice.run else choice.name
        for key, choice in choices.items()
    }


def _section(text: str) -> RewardSection:
    name, remote, url = text.partition("@http")
    tree = {"name": name, "remote": f"http{url}"} if remote else {"name": text}
    return recipes.validate({"reward": tree}, "the command line").reward
