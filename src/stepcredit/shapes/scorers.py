"""Small networks that score an image of the shapes world, or an image and its caption, by a learned preference."""

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
from stepcredit.shapes.augmentations import TEST_TIME
from stepcredit.shapes.color_features import STEM, WIDE, HueFeatures, ImageFeatures
from stepcredit.shapes.pipeline import WEIGHTS
from stepcredit.shapes.rules import RULES
from stepcredit.shapes.tokenizer import build_flow_tokenizer

READS_CAPTION = frozenset({"faithfulness"})
"""Scorers that read the caption. The others score the image alone."""
COMPARES_HUES = frozenset({"harmony"})
"""Scorers that compare hues. Flips and recolorings of the image do not change what they are meant to measure."""
FOLDER = "preferences"
_MIDDLE, _GROUPS, _MERITS = 48, 8, 48


class Scorer(nn.Module):
    """Maps images (B,3,32,32) in [0,1] and their captions to scores (B,).

        scale ((1 - q) v - q) + shift

    v is the value of the picture, and q in [0,1] is the share of it that is lost to damage, as in `rules.utility`.
    Both come from four convolutions down to 8x8 and from `color_features`. `scale` and `shift` are 1 and 0 during
    training and are set once afterwards, so that scores are standardized.

    A scorer that reads captions predicts several merits of an image. Its v is their sum, weighted by the caption. In
    eval mode, the scorer of harmony returns the mean over the twelve augmentations of TEST_TIME.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, name: str) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, STEM, 5, stride=2, padding=2)
        self.down = _convolution(STEM, _MIDDLE, stride=2)
        self.third, self.fourth = _convolution(_MIDDLE, WIDE), _convolution(WIDE, WIDE)
        self.look = HueFeatures() if name in COMPARES_HUES else ImageFeatures()
        merits = _MERITS if name in READS_CAPTION else 1
        features = self.look.features + 2 * (STEM + WIDE)
        self.head = nn.Sequential(
            nn.Linear(features, self.look.hidden), nn.SiLU(), nn.Linear(self.look.hidden, 1 + merits)
        )
        self.reader = Reader(merits) if name in READS_CAPTION else None
        self.augmentations = TEST_TIME if name in COMPARES_HUES else ()
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("shift", torch.zeros(()))

    def forward(self, images: Tensor, captions: Sequence[str]) -> Tensor:
        if self.training or not self.augmentations:
            return self._score_once(images, captions)
        return torch.stack([self._score_once(augment(images), captions) for augment in self.augmentations]).mean(0)

    def table(self, images: Tensor, captions: Sequence[str]) -> Tensor:
        """The scores (B,C) of B images under each of C captions, without augmentations."""
        lost, merits = self._analyze(images)
        return self._score(merits @ self._weights(captions).T, lost.unsqueeze(1))

    def _score_once(self, images: Tensor, captions: Sequence[str]) -> Tensor:
        lost, merits = self._analyze(images)
        return self._score((merits * self._weights(captions)).sum(1), lost)

    def _score(self, value: Tensor, lost: Tensor) -> Tensor:
        return self.scale * ((1 - lost) * value - lost) + self.shift

    def _weights(self, captions: Sequence[str]) -> Tensor:
        weights: Tensor = self.shift.new_ones(len(captions), 1) if self.reader is None else self.reader(captions)
        return weights

    def _analyze(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The lost share (B,) and the merits (B,merits)."""
        images = images * 2 - 1
        first = F.silu(self.stem(images))
        wide = self.third(self.down(first))
        wide = wide + self.fourth(wide)
        features = [self.look(images, first, wide)]
        features += [pooled for maps in (wide, first) for pooled in (maps.mean((2, 3)), maps.amax((2, 3)))]
        output = self.head(torch.cat(features, 1))
        return output[:, 0].sigmoid(), output[:, 1:]


class Reader(nn.Module):
    """Maps captions to the weights (B,merits) of the merits.

    It embeds the tokens of the flow pipeline's tokenizer, convolves over three neighbors and takes the maximum over
    the caption.
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
        weights: Tensor = self.out(F.silu(self.neighbors(words)).amax(2))
        return weights / math.sqrt(weights.shape[1])


def _convolution(channels: int, out: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, out, 3, stride, padding=1), nn.GroupNorm(_GROUPS, out), nn.SiLU())


@cache
def load_scorer(name: str, folder: Path = WEIGHTS) -> Scorer:
    """The frozen scorer of a rule, in float32 (the weights ship as float16).

    Raises:
        InputError: `name` is not a key of RULES.
    """
    if name not in RULES:
        raise unknown("preference", name, RULES)
    scorer = Scorer(name)
    weights = load_file(folder / FOLDER / f"{name}.safetensors")
    scorer.load_state_dict({key: value.float() for key, value in weights.items()})
    return scorer.eval().requires_grad_(False)
