"""A small classifier of the attributes of a shapes image, and how well they match a caption."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from stepcredit.shapes.world import ATTRIBUTES, parse


class Checker(nn.Module):
    """Maps images (B,3,32,32) in [0,1] to logits (B,C) for each attribute of ATTRIBUTES."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for out, stride in ((width, 1), (width, 2), (width * 2, 1), (width * 2, 2), (width * 2, 2)):
            layers += [nn.Conv2d(channels, out, 3, stride=stride, padding=1), nn.GroupNorm(8, out), nn.SiLU()]
            channels = out
        self.features = nn.Sequential(*layers, nn.Flatten())
        self.heads = nn.ModuleDict({name: nn.Linear(channels * 16, len(words)) for name, words in ATTRIBUTES.items()})

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        features = self.features(images * 2 - 1)
        return {name: head(features) for name, head in self.heads.items()}


@torch.no_grad()
def attribute_log_probs(checker: Checker, images: Tensor, prompts: Sequence[str]) -> list[dict[str, float]]:
    """For each prompt, log p(word | image) of every attribute it mentions; `{}` for a prompt outside the world.

    >>> # attribute_log_probs(checker, image, ["a red circle on a blue background"])
    >>> # [{'shape': -0.001, 'foreground': -0.002, 'background': -0.0}]
    """
    logits = {name: value.float().log_softmax(-1).cpu() for name, value in checker(images).items()}
    return [
        {name: float(logits[name][row, ATTRIBUTES[name].index(word)]) for name, word in parse(prompt).items()}
        for row, prompt in enumerate(prompts)
    ]


@torch.no_grad()
def attribute_hits(checker: Checker, images: Tensor, prompts: Sequence[str]) -> list[dict[str, bool]]:
    """For each prompt and mentioned attribute, whether the most likely word is the one in the prompt."""
    best = {name: value.argmax(-1).cpu() for name, value in checker(images).items()}
    return [
        {name: int(best[name][row]) == ATTRIBUTES[name].index(word) for name, word in parse(prompt).items()}
        for row, prompt in enumerate(prompts)
    ]


def accuracy_table(hits: Sequence[dict[str, bool]]) -> dict[str, float]:
    """The accuracy of each attribute over the prompts that mention it; `all` is the share of prompts without a miss."""
    table = {}
    for name in ATTRIBUTES:
        values = [row[name] for row in hits if name in row]
        if values:
            table[name] = sum(values) / len(values)
    table["all"] = sum(all(row.values()) for row in hits) / max(len(hits), 1)
    return table
