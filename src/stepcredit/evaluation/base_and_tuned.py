"""Measure a model before and after training, on the same prompts and noise."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from functools import partial

from stepcredit.evaluation.measure import Measurement, measure
from stepcredit.evaluation.prompt_sets import PromptSet
from stepcredit.rewards import CheckedReward
from stepcredit.types import Plan, Policy

BASE, TUNED = "base", "tuned"


class BaseAndTuned:
    """Measures the base and the tuned weights of policies. A base that several policies share is measured once.

    Args:
        rewards: by the name that results use.
        images: per prompt.
        seed: of the noise.
        on_images: called with the number of images after each batch.
    """

    def __init__(
        self,
        rewards: Mapping[str, CheckedReward],
        images: int,
        seed: int,
        on_images: Callable[[int], None] = lambda _: None,
    ) -> None:
        self.rewards = rewards
        self.images = images
        self.seed = seed
        self._on_images = on_images
        self._bases: dict[Hashable, Measurement] = {}

    def __call__(
        self, policy: Policy, prompts: PromptSet, plan: Plan, trained: bool, model: Hashable
    ) -> dict[str, Measurement]:
        """Measure BASE under `policy.reference()` and, if `trained`, TUNED under `policy.averaged()`.

        Args:
            model: equal for policies with the same base model that sample in the same way.

        Raises:
            RewardError: a reward failed; the message names the prompt.
        """
        run = partial(
            measure,
            policy,
            self.rewards,
            prompts.prompts,
            self.images,
            self.seed,
            plan,
            on_images=self._on_images,
        )
        key = (model, plan, prompts.source, tuple(prompt.text for prompt in prompts.prompts))
        if key in self._bases:
            self._on_images(len(prompts.prompts) * self.images)
        else:
            with policy.reference():
                self._bases[key] = run()
        if not trained:
            return {BASE: self._bases[key]}
        with policy.averaged():
            return {BASE: self._bases[key], TUNED: run()}
