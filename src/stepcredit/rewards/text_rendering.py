"""Whether the text that a prompt asks for can be read in the image."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stepcredit.errors import RewardError, shortened, unknown
from stepcredit.rewards import register_reward
from stepcredit.rewards.core.card import RewardCard
from stepcredit.rewards.core.extras import require_extra
from stepcredit.rewards.vision.images import Images, to_pil

Reader = Callable[[np.ndarray], str]
"""(H,W,3) uint8 RGB pixels -> their text, "" if there is none."""

_QUOTED = re.compile(r'"([^"]*)"|“([^”]*)”')


@register_reward("text_rendering")
class TextRendering:
    """Whether the text that the prompt asks for can be read in the image, by OCR, from 0 to 1.

    The target is `metadata["text"]` or, without it, the double-quoted parts of the prompt in their order. `exact` gives
    1 if the image holds the target and no other text, else 0. `edit-distance` gives

        r = max(0, 1 - d(text, target) / len(target))

    where d is the Levenshtein distance: wrong, missing and extra characters cost the same. Both sides are compared in
    Unicode form NFKC and without white space, because OCR does not preserve it reliably and reads several lines as one.
    Case is ignored unless `ignore_case` is false. An image without text scores 0.

    Source: `edit-distance` is the character accuracy of OCR benchmarks; ignoring white space and case is our choice.
    The OCR engine is rapidocr (extra `ocr`), whose wheel contains its weights. It takes about a second per image on one
    core.

    Args:
        mode: `edit-distance` or `exact`.
        ignore_case: whether "Open" and "OPEN" are equal.
        read: an OCR engine of your own; rapidocr if None.

    Raises:
        InputError: another mode, or the extra is not installed.
    """

    CARD = RewardCard(weights="PP-OCRv6 small, in the rapidocr wheel", size="31 MB", license="Apache-2.0", extra="ocr")

    def __init__(self, mode: str = "edit-distance", ignore_case: bool = True, read: Reader | None = None) -> None:
        if mode not in _MODES:
            raise unknown("text_rendering mode", mode, _MODES)
        require_extra("rapidfuzz", "ocr", "text_rendering")
        self._score = _MODES[mode]
        self._ignore_case = ignore_case
        self._read = read if read is not None else _rapidocr()

    def __call__(self, images: Images, prompts: Sequence[str], metadata: Sequence[dict[str, Any]]) -> Tensor:
        """(images (B,3,H,W) in [0,1] or B of PIL, prompts, metadata) -> (B,) in [0, 1].

        Raises:
            RewardError: a prompt asks for no text.
        """
        targets = [self._normalized(target_text(*pair)) for pair in zip(prompts, metadata, strict=True)]
        for target, prompt in zip(targets, prompts, strict=True):
            if not target:
                raise RewardError(
                    f"prompt '{shortened(prompt)}' asks for no text: put the text in double quotes, or under the key "
                    "'text' of the prompt's metadata"
                )
        texts = [self._normalized(self._read(np.asarray(picture))) for picture in to_pil(images)]
        return torch.tensor([self._score(text, target) for text, target in zip(texts, targets, strict=True)])

    def _normalized(self, text: str) -> str:
        compact = "".join(unicodedata.normalize("NFKC", text).split())
        return compact.casefold() if self._ignore_case else compact


def target_text(prompt: str, metadata: dict[str, Any]) -> str:
    """The text that a prompt asks for: `metadata["text"]`, or what stands in "..." or “...”; "" if there is none."""
    if "text" in metadata:
        return str(metadata["text"])
    return " ".join(straight or curly for straight, curly in _QUOTED.findall(prompt))


def _exact(text: str, target: str) -> float:
    return float(text == target)


def _edit_distance(text: str, target: str) -> float:
    from rapidfuzz.distance import Levenshtein

    return max(0.0, 1 - Levenshtein.distance(text, target) / len(target))


_MODES: dict[str, Callable[[str, str], float]] = {"edit-distance": _edit_distance, "exact": _exact}


def _rapidocr() -> Reader:
    """rapidocr with as many threads as torch uses, without its log messages."""
    for module in ("rapidocr", "onnxruntime"):
        require_extra(module, "ocr", "text_rendering")
    from rapidocr import RapidOCR

    threads = torch.get_num_threads()
    engine = RapidOCR(params={"Global.log_level": "critical", "EngineConfig.onnxruntime.intra_op_num_threads": threads})

    def read(picture: np.ndarray) -> str:
        result: Any = engine(np.ascontiguousarray(picture[..., ::-1]))  # rapidocr takes arrays for BGR, as OpenCV does
        return "\n".join(result.txts or ())

    return read
