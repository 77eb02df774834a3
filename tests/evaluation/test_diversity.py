"""How different images of one prompt are."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from stepcredit.evaluation.diversity import Spread, thumbnail


def plain(*levels: float, size: tuple[int, int] = (8, 8)) -> Tensor:
    """Grey images."""
    return torch.stack([torch.full((3, *size), level) for level in levels])


@pytest.mark.parametrize("size", [(8, 8), (32, 32), (64, 96)])
def test_distance_is_the_pixels_root_mean_square_at_any_size(size: tuple[int, int]) -> None:
    black, grey = thumbnail(plain(0.0, 0.25, size=size))
    assert black.shape == (3 * 32 * 32,)
    assert float((black - grey).norm()) == pytest.approx(0.25, rel=1e-5)


def test_half_of_the_pixels_count_half() -> None:
    images = plain(0.0, 0.0, size=(32, 32))
    images[1, :, :16] = 1.0
    assert float((thumbnail(images)[0] - thumbnail(images)[1]).norm()) == pytest.approx(0.5**0.5, rel=1e-5)


def test_detail_below_the_space_is_averaged_away() -> None:
    checks = torch.arange(64).add(torch.arange(64).unsqueeze(1)).remainder(2).float().expand(1, 3, 64, 64)
    assert torch.allclose(thumbnail(checks), thumbnail(plain(0.5)))


def test_prompts_are_kept_apart_however_images_come() -> None:
    images = plain(0.0, 0.5, 1.0, 0.2, 0.2, 0.2)
    for sizes in ([6], [1, 1, 1, 1, 1, 1], [2, 4], [4, 2]):
        spread = Spread(3, thumbnail)
        for part in images.split(sizes):
            spread.add(part)
        assert spread.distances == pytest.approx([(0.5 + 1.0 + 0.5) / 3, 0.0], abs=1e-6)


def test_one_image_of_a_prompt_has_no_distance() -> None:
    spread = Spread(1, thumbnail)
    spread.add(plain(0.0, 1.0))
    assert spread.distances == [None, None]


def test_the_space_can_be_another() -> None:
    spread = Spread(2, lambda images: 10 * images[:, :1, 0, 0])
    spread.add(plain(0.0, 0.5))
    assert spread.distances == [pytest.approx(5.0)]
