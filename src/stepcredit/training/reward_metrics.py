"""What metrics.jsonl says about the rewards of an epoch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from stepcredit.prompts.tags import rows_by_tag
from stepcredit.rewards import CheckedReward, Scores
from stepcredit.types import Prompt


def reward_metrics(reward: CheckedReward, prompts: Sequence[Prompt], scores: Scores) -> dict[str, Any]:
    """The figures of an epoch's scores by name.

    Args:
        reward: that the scores are of.
        prompts: N, one per image.
        scores: of the N images of all processes, in the order of `prompts`.

    Returns:
        `reward_mean` and `reward_std`, the population standard deviation; `pass_rate`, the share of images that reach
        the pass score, if the reward has one; `reward_components`, {component: {mean, std}}, for mixtures only;
        `reward_by_tag`, {tag: {mean, images}}, if a prompt has a tag.
    """
    values, components, tags = scores.values, scores.statistics(), reward_by_tag(prompts, scores.values)
    passed = reward.passed(values)
    return {
        "reward_mean": float(values.mean()),
        "reward_std": float(values.std(correction=0)),
        **({} if passed is None else {"pass_rate": float(passed.float().mean())}),
        **({"reward_components": components} if components else {}),
        **({"reward_by_tag": tags} if tags else {}),
    }


def reward_by_tag(prompts: Sequence[Prompt], values: Tensor) -> dict[str, dict[str, float]]:
    """{tag: {mean, images}} of values (N,): their mean over the images of the tag, and the number of these images."""
    return {
        tag: {"mean": float(values[rows].mean()), "images": len(rows)} for tag, rows in rows_by_tag(prompts).items()
    }
