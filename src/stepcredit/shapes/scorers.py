"""Small networks that score an image of the shapes world, or an image and its caption, after learned preferences."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import CLIPTokenizer

from stepcredit.errors import unknown
from stepcredit.shapes.looks import STEM, WIDE, Hues, Overview
from stepcredit.shapes.pipeline import WEIGHTS
from stepcredit.shapes.rules import RULES
from stepcredit.shapes.tokenizer import build_flow_tokenizer
from stepcredit.shapes.variations import SPREAD

READING = frozenset({"faithfulness"})
"""Scorers that read the caption; the others see the image alone."""
HUED = frozenset({"harmony"})
"""Scorers that compare hues, and mind neither which channel is which nor which side is up."""
FOLDER = "preferences"
_MIDDLE, _GROUPS, _MERITS = 48, 8, 48


class Scorer(nn.Module):
    """Images (B,3,32,32) in [0,1], and captions if it reads, to scores (B,).

        scale ((1 - q) v - q) + shift

    v values the picture and q in [0,1] says how much of it is lost, as in `rules.utility`. Both come from four
    convolutions down to 8x8 and from a look at colors (`looks`). `scale` and `shift`, 1 and 0 at first, are set once
    to standardize a trained scorer.

    A reader finds several merits in an image; v is their sum, each weighted by what the caption asks for. The scorer of
    harmony gives, in eval mode, the mean over twelve ways of exchanging, inverting and mirroring (`variations`).
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, name: str) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, STEM, 5, stride=2, padding=2)
        self.down = _convolution(STEM, _MIDDLE, stride=2)
        self.third, self.fourth = _convolution(_MIDDLE, WIDE), _convolution(WIDE, WIDE)
        self.look = Hues() if name in HUED else Overview()
        merits = _MERITS if name in READING else 1
        features = self.look.features + 2 * (STEM + WIDE)
        self.head = nn.Sequential(
            nn.Linear(features, self.look.hidden), nn.SiLU(), nn.Linear(self.look.hidden, 1 + merits)
        )
        self.reader = Reader(merits) if name in READING else None
        self.views = SPREAD if name in HUED else ()
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("shift", torch.zeros(()))

    def forward(self, images: Tensor, captions: Sequence[str]) -> Tensor:
        if self.training or not self.views:
            return self._one(images, captions)
        return torch.stack([self._one(view(images), captions) for view in self.views]).mean(0)

    def table(self, images: Tensor, captions: Sequence[str]) -> Tensor:
        """The scores (B,C) of B images under each of C captions, without the mean over views."""
        lost, merits = self._see(images)
        return self._score(merits @ self._weights(captions).T, lost.unsqueeze(1))

    def _one(self, images: Tensor, captions: Sequence[str]) -> Tensor:
        lost, merits = self._see(images)
        return self._score((merits * self._weights(captions)).sum(1), lost)

    def _score(self, value: Tensor, lost: Tensor) -> Tensor:
        return self.scale * ((1 - lost) * value - lost) + self.shift

    def _weights(self, captions: Sequence[str]) -> Tensor:
        weights: Tensor = self.shift.new_ones(len(captions), 1) if self.reader is None else self.reader(captions)
        return weights

    def _see(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(B,) what is lost, and (B,merits)."""
        images = images * 2 - 1
        first = F.silu(self.stem(images))
        wide = self.third(self.down(first))
        wide = wide + self.fourth(wide)
        summary = [self.look(images, first, wide)]
        summary += [pooled for maps in (wide, first) for pooled in (maps.mean((2, 3)), maps.amax((2, 3)))]
        found = self.head(torch.cat(summary, 1))
        return found[:, 0].sigmoid(), found[:, 1:]


class Reader(nn.Module):
    """Captions to the weights (B,merits) of merits.

    It embeds the flow pipeline's tokens and takes the largest of each feature of three neighboring words.
    """

    def __init__(self, merits: int, width: int = 16) -> None:
        super().__init__()
        self.tokenizer: CLIPTokenizer = build_flow_tokenizer()
        self.embedding = nn.Embedding(len(self.tokenizer), width)
        self.neighbors = nn.Conv1d(width, 2 * width, 3, padding=1)
        self.out = nn.Sequential(nn.Linear(2 * width, 64), nn.SiLU(), nn.Linear(64, merits))

    def forward(self, captions: Sequence[str]) -> Tensor:
        tokens = self.tokenizer(
            list(captions), padding="max_length", max_length=self.tokenizer.model_max_length, truncation=True
        ).input_ids
        words = self.embedding(torch.tensor(tokens, device=self.embedding.weight.device)).transpose(1, 2)
        read: Tensor = self.out(F.silu(self.neighbors(words)).amax(2))
        return read / math.sqrt(read.shape[1])


def _convolution(channels: int, out: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, out, 3, stride, padding=1), nn.GroupNorm(_GROUPS, out), nn.SiLU())


@cache
def load_scorer(name: str, folder: Path = WEIGHTS) -> Scorer:
    """The frozen scorer of a rule (weights ship as float16); InputError for another name."""
    if name not in RULES:
        raise unknown("preference", name, RULES)
    scorer = Scorer(name)
    weights = load_file(folder / FOLDER / f"{name}.safetensors")
    scorer.load_state_dict({key: value.float() for key, value in weights.items()})
    return scorer.eval().requires_grad_(False)
