"""PixArt-Sigma: a masked T5 prompt, learned variance, DPM-Solver."""

from __future__ import annotations

from typing import Any

from diffusers import PixArtSigmaPipeline
from tests.tiny import tiny_pixart

CALL: dict[str, Any] = {"height": 16, "width": 16, "use_resolution_binning": False, "max_sequence_length": 16}


def build(seed: int = 0) -> PixArtSigmaPipeline:
    return tiny_pixart(seed)
