"""The same images as floats, as bytes and as pictures."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from stepcredit.rewards.vision.images import to_pil, to_uint8

PIXELS = np.random.default_rng(0).integers(0, 256, (2, 5, 4, 3), dtype=np.uint8)


def test_bytes_are_left_alone() -> None:
    images = torch.from_numpy(PIXELS).permute(0, 3, 1, 2)
    assert np.array_equal(to_uint8(images), PIXELS)
    assert np.array_equal(to_uint8(images.float() / 255), PIXELS)


def test_pictures_of_any_mode_and_size_become_rgb() -> None:
    color, grey = Image.fromarray(PIXELS[0]), Image.new("L", (7, 3), 99)
    see_through = Image.new("RGBA", (2, 2), (10, 20, 30, 0))
    pictures = to_pil([color, grey, see_through])
    assert [picture.mode for picture in pictures] == ["RGB"] * 3
    assert np.array_equal(np.asarray(pictures[0]), PIXELS[0])
    assert pictures[1].size == (7, 3) and pictures[1].getpixel((6, 2)) == (99, 99, 99)
    assert pictures[2].getpixel((0, 0)) == (10, 20, 30)


def test_bytes_of_another_layout_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected \(B, 3, H, W\)"):
        to_uint8(torch.from_numpy(PIXELS))
