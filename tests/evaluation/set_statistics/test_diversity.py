"""Diversity of the images of one prompt."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from stepcredit.evaluation.set_statistics.diversity import DiversityMeter, thumbnail


def gray_images(*levels: float, size: tuple[int, int] = (8, 8)) -> Tensor:
    """Gray images."""
    return torch.stack([torch.full((3, *size), level) for level in levels])


@pytest.mark.parametrize("size", [(8, 8), (32, 32), (64, 96)])
def test_distance_is_the_pixels_root_mean_square_at_any_size(size: tuple[int, int]) -> None:
    black, gray = thumbnail(gray_images(0.0, 0.25, size=size))
    assert black.shape == (3 * 32 * 32,)
    assert float((black - gray).norm()) == pytest.approx(0.25, rel=1e-5)


def test_half_of_the_pixels_count_half() -> None:
    images = gray_images(0.0, 0.0, size=(32, 32))
    images[1, :, :16] = 1.0
    assert float((thumbnail(images)[0] - thumbnail(images)[1]).norm()) == pytest.approx(0.5**0.5, rel=1e-5)


def test_detail_below_the_resolution_is_averaged_away() -> None:
    checks = torch.arange(64).add(torch.arange(64).unsqueeze(1)).remainder(2).float().expand(1, 3, 64, 64)
    assert torch.allclose(thumbnail(checks), thumbnail(gray_images(0.5)))


def test_batches_may_split_the_images_of_a_prompt() -> None:
    images = gray_images(0.0, 0.5, 1.0, 0.2, 0.2, 0.2)
    for sizes in ([6], [1, 1, 1, 1, 1, 1], [2, 4], [4, 2]):
        meter = DiversityMeter(3)
        for part in images.split(sizes):
            meter.add(part, [""] * len(part))
        assert meter.value().values == pytest.approx([(0.5 + 1.0 + 0.5) / 3, 0.0], abs=1e-6)


def test_one_image_per_prompt_has_no_distance() -> None:
    meter = DiversityMeter(1)
    meter.add(gray_images(0.0, 1.0), ["a", "b"])
    assert meter.value().values == [None, None] and meter.value().missing


def test_a_custom_embedding() -> None:
    meter = DiversityMeter(2, lambda images: 10 * images[:, :1, 0, 0])
    meter.add(gray_images(0.0, 0.5), ["a", "a"])
    assert meter.value().values == [pytest.approx(5.0)]
