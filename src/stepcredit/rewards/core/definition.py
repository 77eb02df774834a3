"""From a registered or imported class or function to a reward."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch

from stepcredit.errors import InputError, caused_by
from stepcredit.registry import bind, construct, require_options
from stepcredit.rewards.core.signature import full_signature, passed_arguments
from stepcredit.types import RewardFunction
from stepcredit.utils.global_state import random_state_restored, settings_restored


def make_reward(definition: Callable[..., Any], name: str, options: Mapping[str, Any]) -> RewardFunction:
    """The reward that a class or a function defines.

    A class is instantiated with the options; settings and random numbers that this changes are restored. Any other
    callable is the reward itself, and the options are keyword arguments of every call.

    Raises:
        InputError: unknown option, the class raises when it is instantiated, or the reward cannot be called with
            images, prompts and metadata or the first of them.
    """
    if inspect.isclass(definition):
        return full_signature(_instance(definition, name, options), name)
    passed = passed_arguments(definition, name)
    return full_signature(bind(definition, name, options, passed.count, passed.names), name)


def require_reward_options(definition: Callable[..., Any], name: str, options: Iterable[str]) -> None:
    """InputError for an option that the reward does not have. The reward is not instantiated."""
    if inspect.isclass(definition):
        require_options(definition, name, options)
        return
    passed = passed_arguments(definition, name)
    require_options(definition, name, options, passed.count, passed.names)


def _instance(kind: Callable[..., Any], name: str, options: Mapping[str, Any]) -> Callable[..., Any]:
    try:
        with settings_restored(f"reward '{name}'"), random_state_restored():
            reward: Callable[..., Any] = construct(kind, name, options)
    except (InputError, MemoryError, torch.OutOfMemoryError):
        raise
    except (Exception, SystemExit) as error:  # the user's code may raise anything
        raise caused_by(error, InputError(f"cannot build {name}: {_one_line(error)}")) from error
    if not callable(reward):
        raise InputError(f"reward '{name}' is a class without __call__: define __call__(images, prompts, metadata)")
    return reward


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
