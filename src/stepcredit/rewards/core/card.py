"""What there is to know of a reward before its weights are downloaded."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class RewardCard:
    """Where a reward's weights come from; a reward class that has weights carries one as `CARD`.

    Attributes:
        weights: the hub ids or files that are loaded by default.
        size: parameters, and bytes in float32.
        licence: of the weights.
    """

    weights: str
    size: str
    licence: str
