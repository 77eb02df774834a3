"""Sizes of JPEG files as rewards."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from stepcredit.config import RewardSection
from stepcredit.errors import InputError, RewardError
from stepcredit.rewards import build_reward
from stepcredit.types import RewardFunction


@pytest.fixture
def images() -> Tensor:
    return torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def plain(red: float, green: float, blue: float) -> Tensor:
    return torch.tensor([red, green, blue]).view(1, 3, 1, 1).expand(1, 3, 32, 32)


def score(reward: RewardFunction, images: Tensor, prompts: list[str] | None = None) -> Tensor:
    return reward(images, prompts or ["a cat"] * len(images), [{}] * len(images))


def pillow_size(image: Tensor, quality: int) -> int:
    """Bytes of the JPEG, computed independently of the reward."""
    pixels = np.rint(image.numpy().astype(np.float64) * 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(np.moveaxis(pixels, 0, -1)).save(buffer, "jpeg", quality=quality)
    return len(buffer.getvalue())


@pytest.mark.parametrize("quality", [95, 50])
def test_score_is_the_size_of_the_file(images: Tensor, quality: int) -> None:
    kilobytes = torch.tensor([pillow_size(image, quality) / 1000 for image in images])
    for name, sign in (("jpeg_incompressibility", 1), ("jpeg_compressibility", -1)):
        reward = build_reward(RewardSection(name=name, options={"quality": quality}))
        assert torch.equal(score(reward, images), sign * kilobytes)


def test_default_quality_is_95(images: Tensor) -> None:
    expected = torch.tensor([-pillow_size(image, 95) / 1000 for image in images])
    assert torch.equal(score(build_reward(RewardSection()), images), expected)


def test_noise_is_less_compressible_than_a_plain_image() -> None:
    noise = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    sizes = score(build_reward(RewardSection(name="jpeg_incompressibility")), torch.cat([plain(0.5, 0.5, 0.5), noise]))
    assert sizes[1] > 2 * sizes[0] > 0


@pytest.mark.parametrize("quality", [0, 101, 95.0, "high"])
def test_invalid_quality(quality: object) -> None:
    with pytest.raises(InputError, match=f"quality is {quality!r}"):
        build_reward(RewardSection(options={"quality": quality}))


@pytest.mark.parametrize("name", ["jpeg_compressibility", "jpeg_incompressibility"])
def test_images_that_are_not_finite_are_refused(name: str, images: Tensor) -> None:
    images[1, 0, 0, 0] = torch.nan
    with pytest.raises(RewardError, match=r"images \[1\] are not finite"):
        score(build_reward(RewardSection(name=name)), images)
