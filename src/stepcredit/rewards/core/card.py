"""What a reward needs besides the package, and how its scores are read."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any, Literal

from stepcredit.errors import InputError, shortened


@dataclass(frozen=True)
class RewardCard:
    """What a reward needs and what its scores mean, in the class attribute `CARD` of its class.

    `stepcredit list reward` prints it.

    A reward without a card, or with one whose `needs` is empty, must be constructible without options, network access
    and further files: the tests construct it so.

    Attributes:
        weights: which weights are loaded by default.
        size: number of parameters, and bytes in float32.
        license: of the weights.
        needs: `download`, weights that are not part of any package; `server`, an address that the user gives; or "".
        prompts: the bundled prompt list whose prompts the reward understands; "" for one that accepts other text.
        extra: the extra of this package to install, as in `pip install 'stepcredit[ocr]'`.
        pass_score: an image with at least this score counts as correct; None for a reward without such a score.

    Raises:
        InputError: a `pass_score` that is not a finite number.
    """

    weights: str = ""
    size: str = ""
    license: str = ""
    needs: Literal["", "download", "server"] = ""
    prompts: str = ""
    extra: str = ""
    pass_score: float | None = None

    def __post_init__(self) -> None:
        score: object = self.pass_score
        if score is None or (isinstance(score, int | float) and not isinstance(score, bool) and math.isfinite(score)):
            return
        raise InputError(f"pass_score of a RewardCard is {shortened(repr(score))}, expected a finite number or None")


def pass_score_of(reward: Any) -> float | None:
    """`pass_score` of the card of a reward: a class, an object, a function or a `functools.partial` of one of them."""
    card = getattr(reward.func if isinstance(reward, functools.partial) else reward, "CARD", None)
    return card.pass_score if isinstance(card, RewardCard) else None
