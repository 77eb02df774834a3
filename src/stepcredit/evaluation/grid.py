"""Samples at fixed prompts and seeds, scored: the same noise every time, so that only the weights differ."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import cycle, islice

from torch import Tensor

from stepcredit.types import Plan, Policy, Prompt
from stepcredit.utils.seeds import Stream, sample_seeds


@dataclass(frozen=True)
class Evaluation:
    """Images (N,3,H,W) of the prompts and their scores (N,)."""

    prompts: Sequence[Prompt]
    images: Tensor
    scores: Tensor

    def captions(self) -> list[str]:
        return [f"{prompt.text}\n{score:.3f}" for prompt, score in zip(self.prompts, self.scores.tolist(), strict=True)]


def evaluate(
    policy: Policy,
    score: Callable[[Tensor, Sequence[Prompt]], Tensor],
    prompts: Sequence[Prompt],
    count: int,
    seed: int,
    plan: Plan | None = None,
) -> Evaluation:
    """Score `count` images of `prompts` taken in turn, with the evaluation seeds of run seed `seed`.

    Drawn with averaged weights where the policy keeps averages; scored when it has the trained ones again.
    """
    chosen = list(islice(cycle(prompts), count))
    with policy.averaged():
        rollout = policy.rollout(chosen, sample_seeds(seed, Stream.EVALUATION, 0, count), plan)
    return Evaluation(chosen, rollout.images, score(rollout.images, chosen))
