"""Sample and score a few fixed prompts. The noise is the same at every call, so only the weights differ."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import cycle, islice

from torch import Tensor

from stepcredit.types import Plan, Policy, Prompt
from stepcredit.utils.seeds import Stream, sample_seeds


@dataclass(frozen=True)
class Evaluation:
    """Images (N,3,H,W) of N prompts, and their scores (N,)."""

    prompts: Sequence[Prompt]
    images: Tensor
    scores: Tensor

    def captions(self) -> list[str]:
        """Prompt and score of each image."""
        return [f"{prompt.text}\n{score:.3f}" for prompt, score in zip(self.prompts, self.scores.tolist(), strict=True)]


def evaluate(
    policy: Policy,
    score: Callable[[Tensor, Sequence[Prompt]], Tensor],
    prompts: Sequence[Prompt],
    count: int,
    seed: int,
    plan: Plan | None = None,
) -> Evaluation:
    """Sample `count` images, cycling through `prompts`, and score them.

    Sampling uses averaged weights if the policy keeps them. Scoring happens after the trained weights are back.

    Args:
        seed: the run seed, from which the evaluation seeds are derived.
    """
    chosen = list(islice(cycle(prompts), count))
    with policy.averaged():
        rollout = policy.rollout(chosen, sample_seeds(seed, Stream.EVALUATION, 0, count), plan)
    return Evaluation(chosen, rollout.images, score(rollout.images, chosen))
