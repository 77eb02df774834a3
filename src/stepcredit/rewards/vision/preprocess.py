"""From images to the input of a vision model, exactly as the published models preprocess it, on the CPU.

Both transforms start from 8-bit pixels, so an image has the same score as the file that it is saved to. The image
processors of transformers do not reproduce these inputs: they resize with torchvision, which differs from Pillow by one
level of 255 in some pixels, and multiply by 1/255, which differs in the last bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate, pad

from stepcredit.rewards.vision.images import Images, to_pil

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
"""Mean and standard deviation of red, green and blue in [0, 1] over the training images of OpenAI's CLIP."""


@dataclass(frozen=True)
class ShortestEdgeCrop:
    """Pillow's bicubic resize of the shorter edge to `size`, the square at the center, (x / 255 - mean) / std.

    The longer edge becomes int(size * long / short). Source: the `preprocess` of OpenAI's CLIP.

    Attributes:
        size: edge of the square, in pixels.
        center: rounding of the crop's first pixel, (long - size) / 2: `round` half to even (torchvision, OpenAI's CLIP)
            or `floor` (transformers). Square images are not cropped.
        mean: of each channel.
        std: of each channel.
    """

    size: int = 224
    center: Literal["round", "floor"] = "round"
    mean: tuple[float, float, float] = CLIP_MEAN
    std: tuple[float, float, float] = CLIP_STD

    def __call__(self, images: Images) -> Tensor:
        """B images -> (B, 3, size, size), float32, on the CPU."""
        squares = [to_unit(self._square(picture)) for picture in to_pil(images)]
        return normalized(torch.stack(squares), self.mean, self.std)

    def _square(self, picture: Image.Image) -> Image.Image:
        short = min(picture.size)
        width, height = (self.size if edge == short else int(self.size * edge / short) for edge in picture.size)
        resized = picture.resize((width, height), Image.Resampling.BICUBIC)
        left, top = self._begin(width), self._begin(height)
        return resized.crop((left, top, left + self.size, top + self.size))

    def _begin(self, edge: int) -> int:
        surplus = edge - self.size
        return surplus // 2 if self.center == "floor" else round(surplus / 2)


@dataclass(frozen=True)
class LongestEdgePad:
    """Bicubic resize of the longer edge to `size` in floating point, black borders to a square, (x - mean) / std.

    The shorter edge becomes round(short * size / long). Values beyond [0, 1] after the resize are kept. An image whose
    longer edge is `size` is not resized. Source: the original code of HPSv2, which resizes tensors.

    Attributes:
        size: edge of the square, in pixels.
        antialias: whether downscaling averages over all pixels that it covers.
        mean: of each channel.
        std: of each channel.
    """

    size: int = 224
    antialias: bool = True
    mean: tuple[float, float, float] = CLIP_MEAN
    std: tuple[float, float, float] = CLIP_STD

    def __call__(self, images: Images) -> Tensor:
        """B images -> (B, 3, size, size), float32, on the CPU."""
        squares = [self._square(to_unit(picture)) for picture in to_pil(images)]
        return normalized(torch.stack(squares), self.mean, self.std)

    def _square(self, image: Tensor) -> Tensor:
        scale = self.size / max(image.shape[1:])
        height, width = (round(edge * scale) for edge in image.shape[1:])
        resized = interpolate(
            image[None], size=(height, width), mode="bicubic", align_corners=False, antialias=self.antialias
        )
        top, left = (self.size - height) // 2, (self.size - width) // 2
        return pad(resized[0], (left, self.size - width - left, top, self.size - height - top))


def to_unit(picture: Image.Image) -> Tensor:
    """An RGB picture as (3, H, W), float32, x / 255."""
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255


def normalized(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """(x - mean) / std of each channel of (B, 3, H, W), float32."""
    return (images - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
