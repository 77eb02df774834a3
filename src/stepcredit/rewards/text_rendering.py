"""Whether the words that a prompt asks for can be read in the image."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stepcredit.errors import RewardError, shortened, unknown
from stepcredit.rewards import REWARDS
from stepcredit.rewards.core.card import RewardCard
from stepcredit.rewards.core.extras import require_extra
from stepcredit.rewards.vision.images import Images, to_pil

Reader = Callable[[np.ndarray], str]
"""Reads a picture (H,W,3), uint8, RGB; returns its text, "" where there is none."""

_QUOTED = re.compile(r'"([^"]*)"|“([^”]*)”')


@REWARDS.register("text_rendering")
class TextRendering:
    """Whether the words asked for can be read in the image, by optical character recognition, from 0 to 1.

    The words are `metadata["text"]`, or without it all double-quoted parts of the prompt, in their order. `exact` gives
    1 where the image holds these words and no others, else 0. `edit-distance` gives

        r = max(0, 1 - d(text, words) / len(words))

    where d is the Levenshtein distance: wrong, missing and superfluous characters cost the same. Both sides are
    compared in Unicode's form NFKC, without any white space (recognition does not keep it reliably, and several lines
    are read from top to bottom as one), and without regard to case unless `ignore_case` is false. An image without text
    scores 0.

    Source: `edit-distance` is the accuracy of characters common in recognition; our own choice of white space and case.
    The reader is rapidocr (extra `ocr`), whose wheel holds its weights; about a second per image on one core.

    Args:
        mode: `edit-distance` or `exact`.
        ignore_case: whether "Open" and "OPEN" are the same.
        read: reads a picture (H,W,3), uint8, RGB; rapidocr if None.

    Raises:
        InputError: another mode, or the extra is not installed.
    """

    CARD = RewardCard(weights="PP-OCRv6 small, in the rapidocr wheel", size="31 MB", licence="Apache-2.0")

    def __init__(self, mode: str = "edit-distance", ignore_case: bool = True, read: Reader | None = None) -> None:
        if mode not in _MODES:
            raise unknown("text_rendering mode", mode, _MODES)
        self._score = _MODES[mode]
        self._ignore_case = ignore_case
        self._read = read if read is not None else _rapidocr()

    def __call__(self, images: Images, prompts: Sequence[str], metadata: Sequence[dict[str, Any]]) -> Tensor:
        """(images (B,3,H,W) in [0,1] or B of PIL, prompts, metadata) -> (B,) in [0, 1].

        Raises:
            RewardError: a prompt asks for no words.
        """
        targets = [self._plain(wanted_text(*pair)) for pair in zip(prompts, metadata, strict=True)]
        for target, prompt in zip(targets, prompts, strict=True):
            if not target:
                raise RewardError(
                    f"prompt '{shortened(prompt)}' asks for no words: put them in double quotes, or in the field "
                    "'text' of its line in a .jsonl file"
                )
        texts = [self._plain(self._read(np.asarray(picture))) for picture in to_pil(images)]
        return torch.tensor([self._score(text, target) for text, target in zip(texts, targets, strict=True)])

    def _plain(self, text: str) -> str:
        compact = "".join(unicodedata.normalize("NFKC", text).split())
        return compact.casefold() if self._ignore_case else compact


def wanted_text(prompt: str, metadata: dict[str, Any]) -> str:
    """The words that a prompt asks for, "" if none: `metadata["text"]`, or what stands in "..." or “...”."""
    if "text" in metadata:
        return str(metadata["text"])
    return " ".join(straight or curly for straight, curly in _QUOTED.findall(prompt))


def levenshtein(a: str, b: str) -> int:
    """The fewest characters to insert, delete or replace that turn `a` into `b`."""
    row = list(range(len(b) + 1))
    for i, left in enumerate(a, start=1):
        diagonal, row[0] = row[0], i
        for j, right in enumerate(b, start=1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (left != right))
    return row[-1]


def _exact(text: str, target: str) -> float:
    return float(text == target)


def _edit_distance(text: str, target: str) -> float:
    return max(0.0, 1 - levenshtein(text, target) / len(target))


_MODES: dict[str, Callable[[str, str], float]] = {"edit-distance": _edit_distance, "exact": _exact}


def _rapidocr() -> Reader:
    """Reads with as many threads as torch uses; says nothing."""
    for module in ("rapidocr", "onnxruntime"):
        require_extra(module, "ocr", "text_rendering")
    from rapidocr import RapidOCR

    threads = torch.get_num_threads()
    engine = RapidOCR(params={"Global.log_level": "critical", "EngineConfig.onnxruntime.intra_op_num_threads": threads})

    def read(picture: np.ndarray) -> str:
        found: Any = engine(np.ascontiguousarray(picture[..., ::-1]))  # it takes arrays for BGR, as OpenCV does
        return "\n".join(found.txts or ())

    return read
