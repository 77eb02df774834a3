"""The model before and after training, on the same prompts and noise."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from functools import partial

from stepcredit.evaluation.diversity import Embedding, thumbnail
from stepcredit.evaluation.measure import Measured, PromptSet, measure
from stepcredit.evaluation.results import BASE, TUNED
from stepcredit.rewards import CheckedReward
from stepcredit.types import Plan, Policy


@dataclass(frozen=True)
class SideBySide:
    """Measures both sides of a policy; what several policies have in common is measured once.

    Attributes:
        rewards: by the name that results use.
        images: per prompt.
        seed: of the noise.
        embed: the space in which images of one prompt are compared.
        tick: called with the number of images whenever some are done.
    """

    rewards: Mapping[str, CheckedReward]
    images: int
    seed: int
    embed: Embedding = thumbnail
    tick: Callable[[int], None] = lambda _: None
    _bases: dict[Hashable, Measured] = field(default_factory=dict)

    def __call__(
        self, policy: Policy, prompts: PromptSet, plan: Plan, trained: bool, model: Hashable
    ) -> dict[str, Measured]:
        """BASE under `policy.reference()`, and if `trained` TUNED under `policy.averaged()`.

        Args:
            model: equal where policies share their base model and the way it samples.

        Raises:
            RewardError: a reward failed; it names the prompt.
        """
        see = partial(
            measure,
            policy,
            self.rewards,
            prompts.prompts,
            self.images,
            self.seed,
            plan,
            embed=self.embed,
            tick=self.tick,
        )
        key = (model, plan, prompts.source, tuple(prompt.text for prompt in prompts.prompts))
        if key in self._bases:
            self.tick(len(prompts.prompts) * self.images)
        else:
            with policy.reference():
                self._bases[key] = see()
        if not trained:
            return {BASE: self._bases[key]}
        with policy.averaged():
            return {BASE: self._bases[key], TUNED: see()}
