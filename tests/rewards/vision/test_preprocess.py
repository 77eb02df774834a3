"""Preprocessing, bit for bit, against plain Pillow and numpy, and against the published transforms."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Normalize, Resize, ToTensor
from torchvision.transforms import functional as published

from stepcredit.rewards.vision.preprocess import LongestEdgePad, ShortestEdgeCrop

MEAN = np.array([0.48145466, 0.4578275, 0.40821073], np.float32)
STD = np.array([0.26862954, 0.26130258, 0.27577711], np.float32)
SIZES = [(64, 64), (20, 20), (28, 28), (31, 57), (90, 41), (29, 28), (28, 31), (512, 320), (224, 225)]
"""Heights and widths: above and below the 28 pixels of the output, square and not, odd and even differences."""


def pictures() -> list[Image.Image]:
    generator = np.random.default_rng(0)
    return [Image.fromarray(generator.integers(0, 256, (*size, 3), dtype=np.uint8)) for size in SIZES]


def reference_crop(picture: Image.Image, size: int, center: str) -> np.ndarray:
    width, height = picture.size
    if width <= height:
        resized = picture.resize((size, int(size * height / width)), Image.BICUBIC)
    else:
        resized = picture.resize((int(size * width / height), size), Image.BICUBIC)
    pixels = np.asarray(resized)
    top, left = ((edge - size) / 2 for edge in pixels.shape[:2])
    top, left = (np.floor(top), np.floor(left)) if center == "floor" else (np.rint(top), np.rint(left))
    square = pixels[int(top) : int(top) + size, int(left) : int(left) + size]
    return np.moveaxis((square.astype(np.float32) / np.float32(255) - MEAN) / STD, -1, 0)


@pytest.mark.parametrize("center", ["round", "floor"])
@pytest.mark.parametrize("picture", pictures(), ids=lambda picture: f"{picture.height}x{picture.width}")
def test_crop_equals_pillow_and_numpy(picture: Image.Image, center: str) -> None:
    ours = ShortestEdgeCrop(28, center)([picture])  # type: ignore[arg-type]
    assert ours.shape == (1, 3, 28, 28) and ours.dtype == torch.float32
    assert np.array_equal(ours[0].numpy(), reference_crop(picture, 28, center))


def test_the_two_roundings_differ_for_three_pixels() -> None:
    picture = pictures()[SIZES.index((28, 31))]
    assert not torch.equal(ShortestEdgeCrop(28, "round")([picture]), ShortestEdgeCrop(28, "floor")([picture]))


def test_crop_equals_openai_s_transform() -> None:
    transform = Compose(
        [Resize(28, interpolation=InterpolationMode.BICUBIC), CenterCrop(28), ToTensor(), Normalize(MEAN, STD)]
    )
    for picture in pictures():
        assert torch.equal(ShortestEdgeCrop(28)([picture])[0], transform(picture))


def reference_pad(picture: Image.Image, size: int) -> np.ndarray:
    """Pillow resizes planes of floats with the same antialiasing filter."""
    pixels = np.asarray(picture).astype(np.float32) / np.float32(255)
    scale = size / max(picture.size)
    width, height = (round(edge * scale) for edge in picture.size)
    planes = [Image.fromarray(plane).resize((width, height), Image.BICUBIC) for plane in np.moveaxis(pixels, -1, 0)]
    square = np.zeros((size, size, 3), np.float32)
    top, left = (size - height) // 2, (size - width) // 2
    square[top : top + height, left : left + width] = np.stack([np.asarray(plane) for plane in planes], -1)
    return np.moveaxis((square - MEAN) / STD, -1, 0)


@pytest.mark.parametrize("picture", pictures(), ids=lambda picture: f"{picture.height}x{picture.width}")
def test_pad_equals_pillow_in_floating_point(picture: Image.Image) -> None:
    ours = LongestEdgePad(28)([picture])
    assert ours.shape == (1, 3, 28, 28) and ours.dtype == torch.float32
    np.testing.assert_allclose(ours[0].numpy(), reference_pad(picture, 28), atol=2e-5)


def released_hps(picture: Image.Image, size: int, antialias: bool) -> Tensor:
    image = published.to_tensor(picture)
    scale = size / max(picture.size)
    height, width = (round(edge * scale) for edge in image.shape[1:])
    image = published.resize(image, [height, width], InterpolationMode.BICUBIC, antialias=antialias)
    rows, columns = size - height, size - width
    image = published.pad(image, [columns // 2, rows // 2, columns - columns // 2, rows - rows // 2])
    return published.normalize(image, MEAN.tolist(), STD.tolist())


@pytest.mark.parametrize("antialias", [True, False])
def test_pad_equals_the_code_of_hpsv2(antialias: bool) -> None:
    for picture in pictures():
        assert torch.equal(LongestEdgePad(28, antialias)([picture])[0], released_hps(picture, 28, antialias))


@pytest.mark.parametrize("preprocess", [ShortestEdgeCrop(), LongestEdgePad()], ids=lambda way: type(way).__name__)
def test_images_of_the_right_size_are_only_normalized(preprocess: ShortestEdgeCrop | LongestEdgePad) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (2, 224, 224, 3), dtype=np.uint8)
    expected = np.moveaxis((pixels.astype(np.float32) / np.float32(255) - MEAN) / STD, -1, 1)
    assert np.array_equal(preprocess([Image.fromarray(image) for image in pixels]).numpy(), expected)


@pytest.mark.parametrize("preprocess", [ShortestEdgeCrop(28), LongestEdgePad(28)], ids=lambda way: type(way).__name__)
def test_types_of_images_agree(preprocess: ShortestEdgeCrop | LongestEdgePad) -> None:
    pixels = torch.from_numpy(np.random.default_rng(2).integers(0, 256, (3, 40, 33, 3), dtype=np.uint8))
    images = pixels.permute(0, 3, 1, 2)
    expected = preprocess([Image.fromarray(image.numpy()) for image in pixels])
    assert torch.equal(preprocess(images), expected)
    assert torch.equal(preprocess(images.float() / 255), expected)
    assert torch.equal(preprocess(images.double() / 255), expected)
