"""Whether a picture of the composition world shows what its caption claims."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from stepcredit.errors import InputError, shortened
from stepcredit.rewards import register_reward
from stepcredit.rewards.core.card import RewardCard
from stepcredit.shapes.composition.captions import parse
from stepcredit.shapes.composition.detector import detect
from stepcredit.shapes.composition.facts import facts

SCORES = ("mixed", "share", "all")


@register_reward("composition")
class Composition:
    """Composition world: whether number, shapes, colors and places of the objects are those of the caption, 0 to 1.

    With n facts in the caption, of which k hold in the picture:

        share   k / n
        all     1 if k = n, else 0
        mixed   the mean of both

    Args:
        score: `mixed`, `share` or `all`.
    """

    CARD = RewardCard(prompts="composition", pass_score=1.0)

    def __init__(self, score: str = "mixed") -> None:
        if score not in SCORES:
            raise InputError(
                f"score of the reward composition is {shortened(repr(score))}, expected one of {', '.join(SCORES)}"
            )
        self._score = score

    def __call__(self, images: Tensor, prompts: Sequence[str], metadata: Sequence[dict[str, Any]]) -> Tensor:
        """(images (B,3,32,32) in [0,1], captions of the composition world, ...) -> (B,) in [0, 1].

        Raises:
            InputError: a prompt that is not such a caption, or images of another size.
        """
        claims = [parse(prompt) for prompt in prompts]
        held = [list(facts(claim, found).values()) for claim, found in zip(claims, detect(images), strict=True)]
        share = torch.tensor([sum(row) / len(row) for row in held])
        every = torch.tensor([float(all(row)) for row in held])
        return {"mixed": (share + every) / 2, "share": share, "all": every}[self._score]
