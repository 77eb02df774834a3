"""Rewards: what is maximized. A reward maps (images (B,3,H,W) in [0,1], prompts, metadata) to B scores.

To add one, add one file here: a class (or a function that returns a function) whose keyword arguments are its options,
under `@REWARDS.register("its_name")`. Import heavy packages inside it. The first line of its docstring is what
`stepcredit list reward` prints. A reward that need not ship with the package is named in the recipe instead, as
`module:function` or `path/file.py:function`; see `rewards.user`.
"""

from collections.abc import Callable

from stepcredit.config import MIXTURE, ComponentSection, RewardSection
from stepcredit.errors import InputError, RewardError
from stepcredit.registry import Registry, construct
from stepcredit.rewards.core.checked import CheckedReward, checked
from stepcredit.rewards.core.mixture import Mixture
from stepcredit.rewards.core.scores import Scores, join
from stepcredit.rewards.core.user import load_user_reward
from stepcredit.rewards.remote.client import remote_reward
from stepcredit.rewards.remote.ray import ray_reward
from stepcredit.types import RewardFunction

__all__ = ["REWARDS", "CheckedReward", "RewardError", "Scores", "build_reward", "checked", "join"]

REWARDS: Registry[Callable[..., RewardFunction]] = Registry("reward", "stepcredit.rewards")


def build_reward(section: RewardSection) -> CheckedReward:
    """The reward that a recipe asks for, wrapped so that its scores are verified at every call.

    Raises:
        InputError: unknown reward or option (the nearest one is named), an option value that the reward refuses, or a
            user function that cannot be imported.
    """
    if section.ray_workers is not None:
        return checked(ray_reward(section), section.name)
    if section.components:
        return checked(Mixture({part.called: (_one(part, part.called), part) for part in section.components}), MIXTURE)
    return _one(section, section.name)


def _one(section: RewardSection | ComponentSection, called: str) -> CheckedReward:
    if section.name == MIXTURE:
        raise InputError("a mixture is made of reward.components, a list of rewards with a name and a weight each")
    if section.remote is not None:
        return checked(remote_reward(section.name, section.remote, section.options), called)
    if ":" in section.name:
        return checked(load_user_reward(section.name, section.options), called)
    return checked(construct(REWARDS.get(section.name), section.name, section.options), called)
