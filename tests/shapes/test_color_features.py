"""Color features of the preference scorers."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from stepcredit.shapes.color_features import STEM, WIDE, BilinearFeatures, ColorAttention, HueFeatures, ImageFeatures

SEEN = torch.zeros(1, STEM, 16, 16), torch.zeros(1, WIDE, 8, 8)
"""Zero feature maps."""


def two_colors(inner: list[float], outer: list[float]) -> Tensor:
    """An image (1,3,32,32) in [-1,1] of a square on a background."""
    images = torch.tensor(outer).view(1, 3, 1, 1).repeat(1, 1, 32, 32)
    images[:, :, 8:24, 8:24] = torch.tensor(inner).view(1, 3, 1, 1)
    return images


@pytest.mark.parametrize("side", [16, 32])
def test_untrained_attention_separates_two_colors(side: int) -> None:
    torch.manual_seed(0)
    colors = ColorAttention(16, side).requires_grad_(False)(two_colors([1.0] * 3, [-1.0] * 3), *SEEN)[0, :, :3]
    assert colors.amax() > 0.9 and colors.amin() < -0.9


def test_attention_returns_color_and_position() -> None:
    gaze = ColorAttention(2, 32).requires_grad_(False)
    gaze.color.weight.copy_(torch.tensor([[50.0, 0, 0], [-50.0, 0, 0]]).view(2, 3, 1, 1))
    images = two_colors([-1.0, 0, 0], [-1.0, 0, 0])
    images[0, 0, 31, 0] = 1.0
    seen = gaze(images, *SEEN)[0]
    torch.testing.assert_close(seen[0], torch.tensor([1.0, 0, 0, 31 / 32, -31 / 32]), msg="row, then column")
    torch.testing.assert_close(seen[1, :3], torch.tensor([-1.0, 0, 0]))


def test_opposite_maps_attend_to_both_colors() -> None:
    torch.manual_seed(0)
    hues = HueFeatures().requires_grad_(False)
    left, right = hues.gaze(two_colors([1.0] * 3, [-1.0] * 3), *SEEN)[0, :, :3].split(12)
    assert ((left - right).abs().mean(1) > 1.5).sum() > 8, "most directions separate white from black"


@pytest.mark.parametrize("degrees", [0, 45, 90, 180])
def test_hue_features_of_two_colors(degrees: int) -> None:
    hues = HueFeatures().requires_grad_(False)
    hues.planes.bias.zero_()
    hues.planes.weight.copy_(torch.eye(3)[[0, 1] * 4])
    angle = math.radians(degrees)
    left = torch.tensor([0.25, 0.0, 0.7]).expand(1, 12, 3)
    right = 4 * torch.tensor([math.cos(angle), math.sin(angle), 0.1]).expand(1, 12, 3)
    result = hues.angles(left, right)
    expected = 0.5 * torch.tensor([1.0, math.cos(angle), math.cos(2 * angle)])
    assert result.shape == (1, 12, 4, 3)
    torch.testing.assert_close(
        result, expected.expand_as(result), atol=1e-2, rtol=0, msg="a length beyond 1 counts as 1"
    )


@pytest.mark.parametrize("look", [ImageFeatures, HueFeatures])
def test_features_have_declared_width_and_gradients(look: type[ImageFeatures | HueFeatures]) -> None:
    torch.manual_seed(0)
    made = look()
    images = torch.rand(2, 3, 32, 32)
    near, far = torch.rand(2, STEM, 16, 16), torch.rand(2, WIDE, 8, 8)
    seen = made(images, near, far)
    assert seen.shape == (2, look.features)
    seen.square().sum().backward()
    assert all(weight.grad is not None and bool(weight.grad.isfinite().all()) for weight in made.parameters())


def test_equal_colors_have_finite_gradients() -> None:
    torch.manual_seed(0)
    hues, images = HueFeatures(), torch.zeros(1, 3, 32, 32, requires_grad=True)
    hues.planes.bias.data.zero_()
    hues(images, *SEEN).sum().backward()
    assert images.grad is not None and bool(images.grad.isfinite().all())


def test_bilinear_features_are_scale_invariant() -> None:
    torch.manual_seed(0)
    products = BilinearFeatures(3, 8)
    products.factors.bias.data.zero_()
    features = torch.rand(2, 3) + 1
    torch.testing.assert_close(products(10 * features), products(features), atol=1e-2, rtol=0)
