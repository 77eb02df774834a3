"""Algorithms: how the weights follow from a rollout, its rewards and their credit.

To add one, add one file here: a frozen dataclass that follows `algorithms.base.Algorithm`, under
`@register_algorithm("its-name")`. Its fields are its options. Fields named like a key of the train section
(`SHARED`) are filled from there, any other from `train.options`. The first line of its docstring is what
`stepcredit list algorithm` prints.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from stepcredit.config import TrainSection
from stepcredit.errors import InputError
from stepcredit.registry import Registry, construct, option_names, require_options

if TYPE_CHECKING:
    from stepcredit.algorithms.base import Algorithm

__all__ = ["ALGORITHMS", "SHARED", "build_algorithm", "has_clip_range", "register_algorithm"]

ALGORITHMS: Registry[type[Algorithm]] = Registry("algorithm", "stepcredit.algorithms")
Registered = TypeVar("Registered", bound=type[Any])

SHARED = frozenset({"clip_range", "kl_weight", "kl_space", "advantage_clip"})
"""Keys of the train section that an algorithm takes by having a field of that name."""


def register_algorithm(name: str) -> Callable[[Registered], Registered]:
    """Decorator that makes an algorithm available as `train.algorithm`.

    The class follows `stepcredit.algorithms.base.Algorithm`. `stepcredit list algorithm` prints the first line of its
    docstring.

    Raises:
        InputError: another algorithm has the name.
    """
    return ALGORITHMS.register(name)


def has_clip_range(name: str) -> bool:
    """Whether `train.clip_range` has an effect on the algorithm of this name.

    Raises:
        InputError: unknown algorithm.
    """
    return "clip_range" in option_names(ALGORITHMS.get(name))


def build_algorithm(section: TrainSection) -> Algorithm:
    """The algorithm that `train.algorithm` and `train.options` ask for.

    Raises:
        InputError: unknown algorithm or option (the nearest name is given), or a value that the algorithm refuses.
    """
    algorithm = ALGORITHMS.get(section.algorithm)
    misplaced = sorted(SHARED & section.options.keys())
    if misplaced:
        raise InputError(f"train.options.{misplaced[0]} is a key of the section itself: write train.{misplaced[0]}")
    require_options(algorithm, section.algorithm, section.options, hidden=SHARED)
    shared = section.model_dump(include=set(SHARED.intersection(option_names(algorithm))))
    return construct(algorithm, section.algorithm, {**shared, **section.options})
