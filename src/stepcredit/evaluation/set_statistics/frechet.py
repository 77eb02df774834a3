"""How far the images of a prompt set are from real renders. Over-optimized images move away from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from stepcredit.evaluation.set_statistics import PerSet, register_set_statistic
from stepcredit.shapes.composition.captions import is_caption
from stepcredit.shapes.composition.realism import distance_from_renders, distance_of_renders, features
from stepcredit.shapes.composition.scenes import SIZE

OF_RENDERS = "frechet_of_renders"


@register_set_statistic("frechet")
class FrechetMeter:
    """The Fréchet distance between all images and renders of their captions. Keeps the features, not the images.

    It is defined for images of the composition world: 32 x 32 pixels, every prompt a caption, two images or more.
    """

    label: ClassVar[str] = "Fréchet distance from renders"
    meaning: ClassVar[str] = (
        "distance between the images of a prompt set and renders of the same captions, in features of the detector of "
        "the composition world; lower is better, and it is larger for fewer images, so compare it with that of fresh "
        "renders"
    )
    baselines: ClassVar[Mapping[str, str]] = {OF_RENDERS: "fresh renders of the same captions"}

    def __init__(self, count: int) -> None:
        self._defined = True
        self._captions: list[str] = []
        self._features: list[Tensor] = []

    def add(self, images: Tensor, prompts: Sequence[str]) -> None:
        self._defined = self._defined and images.shape[1:] == (3, SIZE, SIZE) and all(map(is_caption, prompts))
        if self._defined:
            self._captions += prompts
            self._features.append(features(images))

    def value(self) -> PerSet | None:
        if not self._defined or len(self._captions) < 2:
            return None
        distance = distance_from_renders(torch.cat(self._features), self._captions)
        return PerSet(distance, {OF_RENDERS: distance_of_renders(self._captions)})
