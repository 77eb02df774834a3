"""What a reward says of a batch, with the scores that a mixture is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from stepcredit.maths.advantage import group_advantages


@dataclass(frozen=True)
class Component:
    """One reward of a mixture: what it said of B images, and how that counts.

    Attributes:
        scores: (B,), the reward's own.
        weight: of this component in the sum.
        mean: taken away from the scores.
        scale: what they are then divided by, above 0.
        per_prompt: standardize per prompt instead, for training only; `mean` and `scale` are then 0 and 1.
    """

    scores: Tensor
    weight: float = 1.0
    mean: float = 0.0
    scale: float = 1.0
    per_prompt: bool = False

    def value(self) -> Tensor:
        """weight * (scores - mean) / scale, (B,): depends on nothing but the image."""
        return self.weight * (self.scores - self.mean) / self.scale

    def trained(self, prompts: Sequence[str]) -> Tensor:
        """What the advantage is made of, (B,): `value`, or weight * (r - mean of the prompt) / (std of the prompt).

        A prompt with one image, or with equal scores, gives 0 where standardized per prompt.
        """
        return self.weight * group_advantages(self.scores, prompts) if self.per_prompt else self.value()


@dataclass(frozen=True)
class Scores:
    """What a reward says of B images, each judged by itself: batches can be joined in any split.

    Attributes:
        values: (B,), what is logged and written under pictures. Of a mixture it is the sum of `Component.value`: a sum
            standardized per prompt has mean 0 for every prompt whatever the model has learned, and would show nothing.
        components: of a mixture, by name; empty for any other reward.
    """

    values: Tensor
    components: Mapping[str, Component] = field(default_factory=dict)

    def trained(self, prompts: Sequence[str]) -> Tensor:
        """The rewards (B,) that advantages are made of: `values`, or the sum of `Component.trained`.

        Standardizing per prompt looks at the images that are given, so give an epoch's scores together: see `join`.
        """
        if not self.components:
            return self.values
        return torch.stack([component.trained(prompts) for component in self.components.values()]).sum(0)

    def reordered(self, order: Tensor) -> Scores:
        """The scores of images `order`."""
        components = {name: replace(part, scores=part.scores[order]) for name, part in self.components.items()}
        return Scores(self.values[order], components)

    def statistics(self) -> dict[str, dict[str, float]]:
        """{component: {mean, std}} of the components' own scores, before weights; population standard deviation."""
        return {name: _moments(component.scores) for name, component in self.components.items()}


def mix(components: Mapping[str, Component]) -> Scores:
    """The scores of a mixture of at least one component."""
    return Scores(torch.stack([component.value() for component in components.values()]).sum(0), components)


def join(batches: Sequence[Scores]) -> Scores:
    """The scores of several batches, at least one, of the same reward, one after the other."""
    first = batches[0]
    components = {
        name: replace(component, scores=torch.cat([batch.components[name].scores for batch in batches]))
        for name, component in first.components.items()
    }
    return Scores(torch.cat([batch.values for batch in batches]), components)


def _moments(scores: Tensor) -> dict[str, float]:
    return {"mean": float(scores.mean()), "std": float(scores.std(correction=0))}
