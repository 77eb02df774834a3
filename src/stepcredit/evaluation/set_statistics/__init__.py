"""Statistics of all images of a prompt set, beside the scores of single images.

To add one, add one file here with a class under `@register_set_statistic("its_name")`. The name is its key in the
results of an evaluation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

from torch import Tensor

from stepcredit.registry import Registered, Registry


@dataclass(frozen=True)
class PerPrompt:
    """A value for each prompt. Results have their mean with an interval over prompts.

    Attributes:
        values: one for each prompt, in order; None where it is not defined.
        missing: why values are None.
    """

    values: Sequence[float | None]
    missing: str = ""


@dataclass(frozen=True)
class PerSet:
    """One value for all images. Results have no interval of it.

    Attributes:
        value: of the images that were added.
        baselines: values to compare it with, by the keys of `SetStatistic.baselines`.
    """

    value: float
    baselines: Mapping[str, float] = field(default_factory=dict)


class SetStatistic(Protocol):
    """Computes one statistic. It gets the images batch by batch, so that not all of them are in memory.

    Attributes:
        label: its name in tables.
        meaning: what it is, in words.
        baselines: what the baselines of a PerSet are of, in words, by their key in results.
    """

    label: ClassVar[str]
    meaning: ClassVar[str]
    baselines: ClassVar[Mapping[str, str]]

    def __init__(self, count: int) -> None:
        """Start with no images; each prompt will have `count` of them."""

    def add(self, images: Tensor, prompts: Sequence[str]) -> None:
        """Add the next images (B,3,H,W) in [0,1] with the B prompts that they were sampled for.

        The images of a prompt are consecutive. A batch may span several prompts or end within one.
        """

    def value(self) -> PerPrompt | PerSet | None:
        """The statistic of all images that were added; None if it is not defined for such images or prompts."""


SET_STATISTICS: Registry[type[SetStatistic]] = Registry("set statistic", "stepcredit.evaluation.set_statistics")


def register_set_statistic(name: str) -> Callable[[Registered], Registered]:
    """Decorator that adds a SetStatistic to every evaluation.

    Raises:
        InputError: another statistic has the name.
    """
    return SET_STATISTICS.register(name)


def set_statistics() -> dict[str, type[SetStatistic]]:
    """Every registered statistic by name."""
    return {name: SET_STATISTICS.get(name) for name in SET_STATISTICS.names()}
