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

from stepcredit.embedded.pipeline import WEIGHTS
from stepcredit.embedded.rules import RULES
from stepcredit.embedded.tokenizer import build_flow_tokenizer
from stepcredit.errors import unknown

READING = frozenset({"faithfulness"})
"""Scorers that read the caption; the others see the image alone."""
FOLDER = "preferences"
_STEM, _MIDDLE, _WIDE, _GROUPS = 32, 48, 56, 8
_GAZES, _MERITS = 16, 48


class Scorer(nn.Module):
    """Images (B,3,32,32) in [0,1], and captions if it reads, to scores (B,).

        scale ((1 - q) v - q) + shift

    v values the picture and q in [0,1] says how much of it is lost, as in `rules.utility`. Both come from four
    convolutions down to 8x8 and from `Gaze`. `scale` and `shift`, 1 and 0 at first, are set once to standardise a
    trained scorer.

    A reader finds several merits in an image; v is their sum, each weighted by what the caption asks for.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, reads: bool) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, _STEM, 5, stride=2, padding=2)
        self.down = _convolution(_STEM, _MIDDLE, stride=2)
        self.third, self.fourth = _convolution(_MIDDLE, _WIDE), _convolution(_WIDE, _WIDE)
        self.places = nn.Conv2d(_WIDE, 12, 1)
        self.gaze = Gaze()
        self.products = nn.Sequential(Products(5 * _GAZES, 48), Products(48, 48))
        merits = _MERITS if reads else 1
        self.head = nn.Sequential(
            nn.Linear(12 * 16 + 5 * _GAZES + 48 + 2 * (_STEM + _WIDE), 64), nn.SiLU(), nn.Linear(64, 1 + merits)
        )
        self.reader = Reader(merits) if reads else None
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("shift", torch.zeros(()))

    def forward(self, images: Tensor, captions: Sequence[str]) -> Tensor:
        lost, merits = self._see(images)
        return self._score((merits * self._weights(captions)).sum(1), lost)

    def table(self, images: Tensor, captions: Sequence[str]) -> Tensor:
        """The scores (B,C) of B images under each of C captions."""
        lost, merits = self._see(images)
        return self._score(merits @ self._weights(captions).T, lost.unsqueeze(1))

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
        seen = self.gaze(images, first, wide)
        summary = [seen, self.products(seen), F.adaptive_avg_pool2d(self.places(wide), 4).flatten(1)]
        summary += [pooled for maps in (wide, first) for pooled in (maps.mean((2, 3)), maps.amax((2, 3)))]
        found = self.head(torch.cat(summary, 1))
        return found[:, 0].sigmoid(), found[:, 1:]


class Gaze(nn.Module):
    """The mean colour and place (B,5 _GAZES) that each of a few attention maps of 16x16 looks at.

    Every map begins by looking for a colour, far along a random direction: so of two colours it tells one from the
    other before anything is learned.
    """

    def __init__(self) -> None:
        super().__init__()
        self.colour = nn.Conv2d(3, _GAZES, 1)
        nn.init.normal_(self.colour.weight, std=8)
        self.near, self.far = nn.Conv2d(_STEM, _GAZES, 1), nn.Conv2d(_WIDE, _GAZES, 1)

    def forward(self, images: Tensor, near: Tensor, far: Tensor) -> Tensor:
        colours = F.avg_pool2d(images, 2)
        maps = self.colour(colours) + self.near(near) + F.interpolate(self.far(far), scale_factor=2.0)
        place = (torch.arange(16, device=images.device) + 0.5) / 8 - 1
        places = torch.stack(torch.meshgrid(place, place, indexing="ij")).expand(len(images), 2, 16, 16)
        looked_at = torch.cat([colours, places], 1).flatten(2).transpose(1, 2)
        seen: Tensor = (maps.flatten(2).softmax(2) @ looked_at).flatten(1)
        return seen


class Products(nn.Module):
    """Products of two linear maps, normalised per image: angles and distances of colours are made of such."""

    def __init__(self, features: int, out: int) -> None:
        super().__init__()
        self.factors, self.norm = nn.Linear(features, 2 * out), nn.LayerNorm(out)

    def forward(self, features: Tensor) -> Tensor:
        left, right = self.factors(features).chunk(2, 1)
        product: Tensor = self.norm(left * right)
        return product


class Reader(nn.Module):
    """Captions to the weights (B,merits) of merits.

    It embeds the flow pipeline's tokens and takes the largest of each feature of three neighbouring words.
    """

    def __init__(self, merits: int, width: int = 16) -> None:
        super().__init__()
        self.tokenizer: CLIPTokenizer = build_flow_tokenizer()
        self.embedding = nn.Embedding(len(self.tokenizer), width)
        self.neighbours = nn.Conv1d(width, 2 * width, 3, padding=1)
        self.out = nn.Sequential(nn.Linear(2 * width, 64), nn.SiLU(), nn.Linear(64, merits))

    def forward(self, captions: Sequence[str]) -> Tensor:
        tokens = self.tokenizer(
            list(captions), padding="max_length", max_length=self.tokenizer.model_max_length, truncation=True
        ).input_ids
        words = self.embedding(torch.tensor(tokens, device=self.embedding.weight.device)).transpose(1, 2)
        read: Tensor = self.out(F.silu(self.neighbours(words)).amax(2))
        return read / math.sqrt(read.shape[1])


def _convolution(channels: int, out: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, out, 3, stride, padding=1), nn.GroupNorm(_GROUPS, out), nn.SiLU())


@cache
def load_scorer(name: str, folder: Path = WEIGHTS) -> Scorer:
    """The frozen scorer of a rule (weights ship as float16); InputError for another name."""
    if name not in RULES:
        raise unknown("preference", name, RULES)
    scorer = Scorer(reads=name in READING)
    weights = load_file(folder / FOLDER / f"{name}.safetensors")
    scorer.load_state_dict({key: value.float() for key, value in weights.items()})
    return scorer.eval().requires_grad_(False)
