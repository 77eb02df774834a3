"""Size of an image as a JPEG file: two rewards that need no model."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

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

    Source: DDPO, arXiv 2305.13301. The prompt is ignored.

    Attributes:
        quality: of the JPEG encoder, 1 to 100; DDPO uses 95.
    """

    sign: ClassVar[int] = 1

    quality: int = 95

    def __post_init__(self) -> None:
        if not (isinstance(self.quality, int) and 1 <= self.quality <= 100):
            raise InputError(f"JPEG quality is {self.quality!r}, expected an integer from 1 to 100")

    def __call__(self, images: Tensor, prompts: Sequence[str], metadata: Sequence[dict[str, Any]]) -> Tensor:
        """(images (B,3,H,W) in [0,1], ...) -> size in kB (B,), times `sign`."""
        return self.sign * torch.tensor([_bytes(picture, self.quality) / 1000 for picture in to_pil(images)])


@register_reward("jpeg_compressibility")
@dataclass(frozen=True)
class JpegCompressibility(JpegIncompressibility):
    """Minus the size of the image as a JPEG, in kB of 1000 bytes: less detail scores higher.

    Source: DDPO, arXiv 2305.13301. The prompt is ignored.

    Attributes:
        quality: of the JPEG encoder, 1 to 100; DDPO uses 95.
    """

    sign: ClassVar[int] = -1


def _bytes(picture: Image.Image, quality: int) -> int:
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG", quality=quality)
    return buffer.tell()
