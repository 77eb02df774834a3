"""How well an image compresses: the two rewards that need no model."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from stepcredit.errors import InputError
from stepcredit.rewards import register_reward
from stepcredit.rewards.vision.images import to_pil


@register_reward("jpeg_incompressibility")
@dataclass(frozen=True)
class JpegIncompressibility:
    """Size of the image as a JPEG, in kB of 1000 bytes: more detail scores higher.

    Source: DDPO, arXiv 2305.13301. The prompt plays no part.

    Attributes:
        quality: of the JPEG encoder, 1 to 100; DDPO takes 95.
    """

    quality: int = 95

    def __post_init__(self) -> None:
        _require_quality(self.quality)

    def __call__(self, images: Tensor, prompts: Sequence[str], metadata: Sequence[dict[str, Any]]) -> Tensor:
        """(images (B,3,H,W) in [0,1], ...) -> kB (B,), positive."""
        return _kilobytes(images, self.quality)


@register_reward("jpeg_compressibility")
@dataclass(frozen=True)
class JpegCompressibility:
    """Minus the size of the image as a JPEG, in kB of 1000 bytes: plainer images score higher.

    Source: DDPO, arXiv 2305.13301. The prompt plays no part.

    Attributes:
        quality: of the JPEG encoder, 1 to 100; DDPO takes 95.
    """

    quality: int = 95

    def __post_init__(self) -> None:
        _require_quality(self.quality)

    def __call__(self, images: Tensor, prompts: Sequence[str], metadata: Sequence[dict[str, Any]]) -> Tensor:
        """(images (B,3,H,W) in [0,1], ...) -> -kB (B,), negative."""
        return -_kilobytes(images, self.quality)


def _require_quality(quality: int) -> None:
    if not (isinstance(quality, int) and 1 <= quality <= 100):
        raise InputError(f"JPEG quality is {quality!r}, expected a whole number from 1 to 100")


def _kilobytes(images: Tensor, quality: int) -> Tensor:
    return torch.tensor([_bytes(picture, quality) / 1000 for picture in to_pil(images)])


def _bytes(picture: Image.Image, quality: int) -> int:
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG", quality=quality)
    return buffer.tell()
