"""A weighted sum of rewards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from stepcredit.config import ComponentSection
from stepcredit.rewards.core.checked import CheckedReward
from stepcredit.rewards.core.scores import Component, Scores, mix


@dataclass(frozen=True)
class Mixture:
    """A weighted sum of rewards, each standardized per prompt, by a fixed mean and scale, or not at all.

        r = sum_k weight_k (r_k - mean_k) / scale_k

    Attributes:
        parts: {name: (reward, the section with its weight and standardization)}.
    """

    parts: Mapping[str, tuple[CheckedReward, ComponentSection]]

    def __call__(self, images: Tensor, prompts: Sequence[str], metadata: Sequence[dict[str, Any]]) -> Scores:
        """(images (B,3,H,W) in [0,1], ...) -> Scores of B images with one component per part.

        Raises:
            RewardError: a part failed; the message has its name.
        """
        return mix(
            {
                name: Component(
                    reward(images, prompts, metadata),
                    weight=section.weight,
                    mean=section.mean,
                    scale=section.scale,
                    per_prompt=section.standardize == "prompt",
                    pass_score=reward.pass_score,
                )
                for name, (reward, section) in self.parts.items()
            }
        )
