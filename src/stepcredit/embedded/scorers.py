"""Small networks that score an image of the shapes world, or an image and its caption, after learned preferences."""

from __future__ import annotations

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
_STEM, _MIDDLE, _WIDE, _GROUPS = 32, 48, 64, 8


class Scorer(nn.Module):
    """Images (B,3,32,32) in [0,1], and captions if it reads, to scores (B,).

        scale ((1 - q) v - q) + shift

    v values the picture and q in [0,1] says how much of it is lost, as in `rules.utility`; both come from four
    convolutions down to 8x8. `scale` and `shift`, 1 and 0 at first, are set once to standardise a trained scorer.

    A reader embeds the flow pipeline's tokens, takes the largest of each feature of three neighbouring words, and
    scales and shifts the channels of the last two convolutions by it.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, reads: bool) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, _STEM, 5, stride=2, padding=2)
        self.down = nn.Sequential(
            nn.Conv2d(_STEM, _MIDDLE, 3, stride=2, padding=1), nn.GroupNorm(_GROUPS, _MIDDLE), nn.SiLU()
        )
        self.third = nn.Sequential(nn.Conv2d(_MIDDLE, _WIDE, 3, padding=1), nn.GroupNorm(_GROUPS, _WIDE))
        self.fourth = nn.Sequential(nn.Conv2d(_WIDE, _WIDE, 3, padding=1), nn.GroupNorm(_GROUPS, _WIDE))
        self.places = nn.Conv2d(_WIDE, 16, 1)
        self.head = nn.Sequential(nn.Linear(16 * 16 + 2 * (_STEM + _WIDE), 64), nn.SiLU(), nn.Linear(64, 2))
        self.reader = Reader(4 * _WIDE) if reads else None
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("shift", torch.zeros(()))

    def forward(self, images: Tensor, captions: Sequence[str]) -> Tensor:
        first = F.silu(self.stem(images * 2 - 1))
        wide = self.third(self.down(first))
        if self.reader is None:
            wide = F.silu(wide)
            wide = wide + F.silu(self.fourth(wide))
        else:
            by, to, then_by, then_to = self.reader(captions).view(-1, 4, _WIDE, 1, 1).unbind(1)
            wide = F.silu(wide * (1 + by) + to)
            wide = wide + F.silu(self.fourth(wide) * (1 + then_by) + then_to)
        summary = [F.adaptive_avg_pool2d(self.places(wide), 4).flatten(1)]
        summary += [pooled for maps in (wide, first) for pooled in (maps.mean((2, 3)), maps.amax((2, 3)))]
        value, lost = self.head(torch.cat(summary, 1)).unbind(1)
        lost = lost.sigmoid()
        scores: Tensor = self.scale * ((1 - lost) * value - lost) + self.shift
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
        words = self.embedding(torch.tensor(tokens, device=self.embedding.weight.device)).transpose(1, 2)
        read: Tensor = self.out(F.silu(self.neighbours(words)).amax(2))
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
