"""The scores of a batch, with those of each component of a mixture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from stepcredit.maths.advantage import group_advantages


@dataclass(frozen=True)
class Component:
    """One reward of a mixture: its scores of B images, and how they enter the sum.

    Attributes:
        scores: (B,), as the reward returned them.
        weight: of this component in the sum.
        mean: subtracted from the scores.
        scale: divisor of the scores after that, above 0.
        per_prompt: standardize per prompt instead, for training only; `mean` and `scale` are then 0 and 1.
        pass_score: an image with at least this score counts as correct; None if the reward has no such score.
    """

    scores: Tensor
    weight: float = 1.0
    mean: float = 0.0
    scale: float = 1.0
    per_prompt: bool = False
    pass_score: float | None = None

    def value(self) -> Tensor:
        """weight * (scores - mean) / scale, (B,): independent of the other images of the batch."""
        return self.weight * (self.scores - self.mean) / self.scale

    def trained(self, prompts: Sequence[str]) -> Tensor:
        """The term of the training reward, (B,): `value`, or weight * (r - mean of the prompt) / (std of the prompt).

        With `per_prompt`, it is 0 for a prompt with one image or with equal scores.
        """
        return self.weight * group_advantages(self.scores, prompts) if self.per_prompt else self.value()

    def passed(self) -> Tensor | None:
        """Which images pass, (B,) bool; None without a pass score."""
        return None if self.pass_score is None else self.scores >= self.pass_score


@dataclass(frozen=True)
class Scores:
    """The scores of B images. Each depends on its own image only, so batches can be split and joined freely.

    Attributes:
        values: (B,), for logs and captions. For a mixture it is the sum of `Component.value`: a sum standardized per
            prompt has mean 0 for every prompt, so it would not show progress.
        components: of a mixture, by name; empty for any other reward.
    """

    values: Tensor
    components: Mapping[str, Component] = field(default_factory=dict)

    def trained(self, prompts: Sequence[str]) -> Tensor:
        """The rewards (B,) from which advantages are computed: `values`, or the sum of `Component.trained`.

        Standardization per prompt uses all images of this object, so `join` the batches of an epoch first.
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
    """Concatenate the scores of batches, at least one, of the same reward."""
    first = batches[0]
    components = {
        name: replace(component, scores=torch.cat([batch.components[name].scores for batch in batches]))
        for name, component in first.components.items()
    }
    return Scores(torch.cat([batch.values for batch in batches]), components)


def _moments(scores: Tensor) -> dict[str, float]:
    return {"mean": float(scores.mean()), "std": float(scores.std(correction=0))}
