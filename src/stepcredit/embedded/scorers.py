"""Small networks that score an image of the shapes world, or an image and its caption, after learned preferences."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import CLIPTokenizer

from stepcredit.embedded.pipeline import WEIGHTS
from stepcredit.embedded.rules import RULES
from stepcredit.embedded.tokenizer import build_flow_tokenizer
from stepcredit.errors import unknown

READING = frozenset({"faithfulness"})
"""Scorers that read the caption; the others see the image alone."""
FOLDER = "preferences"
_WIDTH, _CHANNELS, _GROUPS = 24, 48, 8


class Scorer(nn.Module):
    """Images (B,3,32,32) in [0,1], and captions if it reads, to scores (B,).

    Five convolutions down to 4x4 and two linear layers. A reader embeds the flow pipeline's tokens, takes the largest
    of each feature of three neighbouring words, and scales and shifts the last two convolutions' channels by it.
    """

    def __init__(self, reads: bool) -> None:
        super().__init__()
        self.features = nn.ModuleList()
        before = 3
        for after, stride in ((_WIDTH, 1), (_WIDTH, 2), (_CHANNELS, 1), (_CHANNELS, 2), (_CHANNELS, 2)):
            convolution = nn.Conv2d(before, after, 3, stride=stride, padding=1)
            self.features.append(nn.Sequential(convolution, nn.GroupNorm(_GROUPS, after)))
            before = after
        self.head = nn.Sequential(nn.Linear(_CHANNELS * 16, _CHANNELS), nn.SiLU(), nn.Linear(_CHANNELS, 1))
        self.reader = Reader(2 * 2 * _CHANNELS) if reads else None

    def forward(self, images: Tensor, captions: Sequence[str]) -> Tensor:
        states = images * 2 - 1
        read = [] if self.reader is None else self.reader(captions).view(-1, 4, _CHANNELS, 1, 1).unbind(1)
        for index, layer in enumerate(self.features):
            states = layer(states)
            late = index - len(self.features) + 2
            if read and late >= 0:
                states = states * (1 + read[2 * late]) + read[2 * late + 1]
            states = nn.functional.silu(states)
        scores: Tensor = self.head(states.flatten(1)).squeeze(1)
        return scores


class Reader(nn.Module):
    """Captions to (B, features)."""

    def __init__(self, features: int, width: int = 32) -> None:
        super().__init__()
        self.tokenizer: CLIPTokenizer = build_flow_tokenizer()
        self.embedding = nn.Embedding(len(self.tokenizer), width)
        self.neighbours = nn.Conv1d(width, 2 * width, 3, padding=1)
        self.out = nn.Linear(2 * width, features)

    def forward(self, captions: Sequence[str]) -> Tensor:
        tokens = self.tokenizer(
            list(captions), padding="max_length", max_length=self.tokenizer.model_max_length, truncation=True
        ).input_ids
        device = self.embedding.weight.device
        words = self.embedding(torch.tensor(tokens, device=device)).transpose(1, 2)
        read: Tensor = self.out(nn.functional.silu(self.neighbours(words)).amax(2))
        return read


@cache
def load_scorer(name: str, folder: Path = WEIGHTS) -> Scorer:
    """The frozen scorer of a rule (weights ship as float16); InputError for another name."""
    if name not in RULES:
        raise unknown("preference", name, RULES)
    scorer = Scorer(reads=name in READING)
    weights = load_file(folder / FOLDER / f"{name}.safetensors")
    scorer.load_state_dict({key: value.float() for key, value in weights.items()})
    return scorer.eval().requires_grad_(False)
