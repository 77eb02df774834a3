"""The head of the aesthetic score and of ImageReward: five linear layers from an embedding to a score."""

from __future__ import annotations

import itertools
from collections import OrderedDict

from torch import Tensor, nn


class LinearPredictor(nn.Module):
    """width -> 1024 -> 128 -> 64 -> 16 -> 1, with biases and without activations.

    The published models have dropout after each of the first three layers, hence the names 0, 2, 4, 6 and 7.
    Source: christophschuhmann/improved-aesthetic-predictor, adopted by ImageReward (arXiv 2304.05977).
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        sizes = [width, 1024, 128, 64, 16, 1]
        names = ["0", "2", "4", "6", "7"]
        linear = [nn.Linear(before, after) for before, after in itertools.pairwise(sizes)]
        self.layers = nn.Sequential(OrderedDict(zip(names, linear, strict=True)))

    def forward(self, embedding: Tensor) -> Tensor:
        """(B, width) -> (B,)."""
        scores: Tensor = self.layers(embedding)
        return scores.squeeze(-1)
