"""Conversions between float tensors, 8-bit pixels and PIL images."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from stepcredit.rewards.vision.images import to_pil, to_uint8

PIXELS = np.random.default_rng(0).integers(0, 256, (2, 5, 4, 3), dtype=np.uint8)


def test_8_bit_pixels_are_exact() -> None:
    images = torch.from_numpy(PIXELS).permute(0, 3, 1, 2)
    assert np.array_equal(to_uint8(images), PIXELS)
    assert np.array_equal(to_uint8(images.float() / 255), PIXELS)


def test_pil_images_become_rgb() -> None:
    color, gray = Image.fromarray(PIXELS[0]), Image.new("L", (7, 3), 99)
    transparent = Image.new("RGBA", (2, 2), (10, 20, 30, 0))
    pictures = to_pil([color, gray, transparent])
    assert [picture.mode for picture in pictures] == ["RGB"] * 3
    assert np.array_equal(np.asarray(pictures[0]), PIXELS[0])
    assert pictures[1].size == (7, 3) and pictures[1].getpixel((6, 2)) == (99, 99, 99)
    assert pictures[2].getpixel((0, 0)) == (10, 20, 30)


def test_pixels_are_rounded_and_clamped() -> None:
    values = torch.tensor([-0.5, 0.0, 0.4 / 255, 0.6 / 255, 254.4 / 255, 1.0, 1.5])
    images = values.view(1, 1, 1, 7).expand(1, 3, 1, 7)
    pixels = to_uint8(images)
    assert pixels.shape == (1, 1, 7, 3) and pixels.dtype == np.uint8
    assert pixels[0, 0, :, 1].tolist() == [0, 0, 0, 1, 254, 255, 255]


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 1, 8, 8), (1, 8, 8, 3)])
def test_other_layouts_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected \(B, 3, H, W\)"):
        to_uint8(torch.zeros(shape))
