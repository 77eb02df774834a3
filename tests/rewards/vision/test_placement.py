"""Batches, dtypes and devices of learned rewards."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from stepcredit.errors import InputError
from stepcredit.rewards.vision.images import Images
from stepcredit.rewards.vision.placement import place


def test_batches_in_order() -> None:
    seen: list[list[str]] = []

    def score(images: Images, prompts: Sequence[str]) -> Tensor:
        seen.append(list(prompts))
        assert isinstance(images, Tensor) and not torch.is_grad_enabled()
        return images.mean((1, 2, 3)).double()

    images = torch.arange(5.0).view(5, 1, 1, 1).expand(5, 3, 2, 2)
    scores = place("cpu", "float32", 2).scores(score, images, list("abcde"))
    assert scores.tolist() == [0, 1, 2, 3, 4] and scores.dtype == torch.float32
    assert seen == [["a", "b"], ["c", "d"], ["e"]]


def test_an_empty_batch() -> None:
    assert place("cpu", "float32", 2).scores(lambda *_: torch.ones(1), [], []).shape == (0,)


def test_different_numbers_of_images_and_prompts() -> None:
    with pytest.raises(ValueError, match="2 images and 1 prompts"):
        place("cpu", "float32", 2).scores(lambda *_: torch.ones(2), torch.zeros(2, 3, 4, 4), ["a"])


def test_the_placement() -> None:
    found = place("cpu", "bfloat16", 3)
    assert (found.device, found.dtype, found.batch_size) == (torch.device("cpu"), torch.bfloat16, 3)
    assert place("auto", "float16", 1).device.type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize(
    ("device", "dtype", "batch_size", "complaint"),
    [
        ("cpu", "bfloat", 1, "unknown dtype 'bfloat' (did you mean 'bfloat16'?); known: bfloat16, float16, float32"),
        ("cpu", "float32", 0, "batch_size is 0, expected an integer"),
        ("cpu", "float32", 2.0, "batch_size is 2.0, expected an integer"),
        ("cpu", "float32", True, "batch_size is True, expected an integer"),
        (
            "gpu",
            "float32",
            1,
            "device is 'gpu', expected auto, cpu, cuda, xpu or mps, or one of several, such as cuda:1",
        ),
        ("cuda:99", "float32", 1, "device is 'cuda:99' but this machine has"),
    ],
)
def test_an_invalid_placement(device: str, dtype: str, batch_size: int, complaint: str) -> None:
    with pytest.raises(InputError) as raised:
        place(device, dtype, batch_size)
    assert complaint in str(raised.value)
