"""Which part of a prompt a reward reads."""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol, runtime_checkable

from stepcredit.prompts.text_limit import TextLimit
from stepcredit.rewards.core.checked import CheckedReward
from stepcredit.rewards.core.mixture import Mixture


@runtime_checkable
class LimitedReader(Protocol):
    """A reward whose text encoder ignores the end of long prompts."""

    @property
    def text_limit(self) -> TextLimit: ...


def reward_text_limits(reward: CheckedReward) -> list[TextLimit]:
    """The limit of a reward, or those of the components of a mixture, under their names.

    Rewards on a server or on Ray actors are not examined.
    """
    inner = reward.reward
    if isinstance(inner, Mixture):
        return [limit for part, _ in inner.parts.values() for limit in reward_text_limits(part)]
    if isinstance(inner, LimitedReader) and isinstance(limit := inner.text_limit, TextLimit):
        return [replace(limit, name=reward.name)]
    return []
