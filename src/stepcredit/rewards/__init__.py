"""Rewards: what is maximized. A reward maps (images (B,3,H,W) in [0,1], prompts, metadata) to B scores.

To add one, add one file here that defines a class or a function under `@register_reward("its_name")`. Import heavy
packages inside it. `stepcredit list reward` prints the first line of its docstring.

A reward of your own needs no registration. Name it in the recipe as `module:function` or `path/file.py:function`, or
pass the function or object to the Python API. To give it a name, decorate it with `register_reward` in a plugin.
"""

from collections.abc import Callable
from typing import Any

from stepcredit.config import MIXTURE, ComponentSection, RewardSection
from stepcredit.errors import InputError, RewardError, shortened
from stepcredit.registry import Registered, Registry
from stepcredit.rewards.core.card import RewardCard, pass_score_of
from stepcredit.rewards.core.checked import CheckedReward, checked
from stepcredit.rewards.core.definition import make_reward
from stepcredit.rewards.core.mixture import Mixture
from stepcredit.rewards.core.naming import object_name
from stepcredit.rewards.core.scores import Scores, join
from stepcredit.rewards.core.signature import EXPECTED, full_signature
from stepcredit.rewards.remote.client import remote_reward
from stepcredit.rewards.remote.ray import ray_reward

__all__ = [
    "REWARDS",
    "CheckedReward",
    "RewardCard",
    "RewardError",
    "RewardLike",
    "Scores",
    "as_reward",
    "build_reward",
    "checked",
    "join",
    "register_reward",
]

REWARDS: Registry[Callable[..., Any]] = Registry("reward", "stepcredit.rewards")


def register_reward(name: str) -> Callable[[Registered], Registered]:
    """Decorator that makes a reward available as `reward.name` and as a component of mixtures.

    A function `(images, prompts, metadata) -> scores` is a reward, and its further keyword arguments are options. It
    may take the images alone, or images and prompts. A class is built with its options, and its objects are called the
    same way. Images are (B, 3, H, W) in [0, 1]; higher scores are better.

    >>> @register_reward("brightness")
    ... def brightness(images, prompts, metadata):
    ...     return images.mean((1, 2, 3))

    Raises:
        InputError: another reward has the name.
    """
    return REWARDS.register(name)


RewardLike = str | RewardSection | Callable[..., Any]
"""What `as_reward` accepts."""


def as_reward(reward: RewardLike) -> CheckedReward:
    """The reward that a user passes in Python, wrapped so that its scores are verified at every call.

    Args:
        reward: the name of a registered reward; `module:function` or `path/file.py:function`; a RewardSection; or a
            callable (a function, a torch module, an object with `__call__`) that returns one score per image. The
            callable may take (images), (images, prompts) or (images, prompts, metadata): its signature decides, see
            `rewards.core.signature.passed_arguments`. Metrics and errors call a function by its own name, an object by
            its class.

    Raises:
        InputError: another type, a callable with other required arguments, or as in `build_reward`.
    """
    if isinstance(reward, CheckedReward):
        return reward
    if isinstance(reward, str):
        return build_reward(RewardSection(name=reward))
    if isinstance(reward, RewardSection):
        return build_reward(reward)
    if isinstance(reward, type):
        raise InputError(f"reward is the class {reward.__name__}: pass an instance, such as {reward.__name__}()")
    if not callable(reward):
        raise InputError(
            f"reward is {shortened(repr(reward))} of type {type(reward).__name__}, expected the name of a reward, "
            f"module:function, a RewardSection, or a callable that takes {EXPECTED}"
        )
    name = object_name(reward, taken=REWARDS.names())
    return checked(full_signature(reward, name), name, pass_score_of(reward))


def build_reward(section: RewardSection) -> CheckedReward:
    """The reward that a recipe selects, wrapped so that its scores are verified at every call.

    Raises:
        InputError: unknown reward or option (the nearest one is named), an option value that the reward refuses, or a
            user function that cannot be imported.
    """
    if section.ray_workers is not None:
        score = None if section.components else _registered_pass_score(section.name)
        return CheckedReward(ray_reward(section), section.name, copies_arguments=False, pass_score=score)
    if section.components:
        parts = {part.called: (_one(part, part.called), part) for part in section.components}
        return CheckedReward(Mixture(parts), MIXTURE, copies_arguments=False)
    return _one(section, section.name)


def _one(section: RewardSection | ComponentSection, name: str) -> CheckedReward:
    if section.name == MIXTURE:
        raise InputError("the reward 'mixture' needs reward.components: list the rewards with a name and a weight each")
    if section.remote is not None:
        reward = remote_reward(section.name, section.remote, section.options)
        score = _registered_pass_score(section.name)
        return CheckedReward(reward, name, copies_arguments=False, pass_score=score)
    definition = REWARDS.get(section.name)
    return checked(make_reward(definition, section.name, section.options), name, pass_score_of(definition))


def _registered_pass_score(name: str) -> float | None:
    """The pass score of a reward that runs elsewhere, if it is registered here too; no file of the user is imported."""
    return pass_score_of(REWARDS.get(name)) if name in REWARDS.names() else None
