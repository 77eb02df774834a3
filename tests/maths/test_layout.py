"""Coarse, centered latents."""

import pytest
import torch

from stepcredit.maths.layout import layout


def test_by_hand() -> None:
    # Cells 1, 3 of the upper and 5, 7 of the lower half, less their mean of 4.
    latents = torch.tensor([[0.0, 2, 3, 3], [1, 1, 2, 4], [5, 5, 7, 7], [5, 5, 7, 7]]).view(1, 1, 4, 4)
    assert layout(latents, 2).tolist() == [[-3.0, -1.0, 1.0, 3.0]]


def test_color_does_not_count_and_texture_only_in_finer_cells() -> None:
    latents = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    colored = latents + torch.tensor([1.0, -2.0, 0.5, 3.0]).view(4, 1, 1)
    torch.testing.assert_close(layout(colored, 4), layout(latents, 4), atol=1e-5, rtol=0)
    texture = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).repeat(4, 4)
    torch.testing.assert_close(layout(latents + texture, 4), layout(latents, 4), atol=1e-5, rtol=0)
    assert not torch.allclose(layout(latents + texture, 8), layout(latents, 8), atol=0.1)


@pytest.mark.parametrize(("shape", "cells", "width"), [((2, 4, 6, 3), 4, 48), ((2, 5, 3), 4, 15), ((2, 7), 4, 7)])
def test_latents_of_any_layout(shape: tuple[int, ...], cells: int, width: int) -> None:
    latents = torch.randn(shape, generator=torch.Generator().manual_seed(0)).half()
    features = layout(latents, cells)
    assert features.shape == (2, width) and features.dtype == torch.float32
    if len(shape) == 3:
        torch.testing.assert_close(features.view(shape).sum(1), torch.zeros(2, 3), atol=1e-5, rtol=0)


def test_what_is_the_same_everywhere_has_none() -> None:
    assert torch.equal(layout(torch.full((1, 2, 4, 4), 3.0), 4), torch.zeros(1, 32))
    assert torch.equal(layout(torch.randn(1, 2, 4, 4), 1), torch.zeros(1, 2))


def test_no_cells_and_no_batch_are_refused() -> None:
    with pytest.raises(ValueError, match="cells is 0, expected at least 1"):
        layout(torch.zeros(1, 2, 4, 4), 0)
    with pytest.raises(ValueError, match="latents"):
        layout(torch.zeros(4), 2)
