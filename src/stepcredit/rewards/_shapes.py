"""Checks of the images and prompts of rewards for the shapes world."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from stepcredit.errors import InputError
from stepcredit.shapes.render import SIZE
from stepcredit.shapes.world import parse


def require_shapes_images(images: Tensor) -> None:
    """InputError unless `images` are (B,3,32,32)."""
    if images.shape[1:] != (3, SIZE, SIZE):
        shape = tuple(images.shape)
        raise InputError(f"images have shape {shape}, expected images of the shapes world, (B, 3, {SIZE}, {SIZE})")


def require_captions(prompts: Sequence[str]) -> None:
    """InputError that names the first prompt that is not a caption of the shapes world."""
    wrong = next((prompt for prompt in prompts if not parse(prompt)), None)
    if wrong is not None:
        example = "a large red circle on a blue background"
        raise InputError(f"{wrong!r} is not a caption of the shapes world, such as '{example}'")
