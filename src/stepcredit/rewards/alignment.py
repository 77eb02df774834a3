"""How well an image of the shapes world matches its caption."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from stepcredit.rewards import register_reward
from stepcredit.rewards._shapes import require_captions, require_shapes_images
from stepcredit.shapes.checker import Checker, attribute_log_probs


@register_reward("alignment")
class Alignment:
    """Shapes world: mean probability of the caption's words according to the packaged checker, from 0 to 1.

        r = mean over the attributes that the caption mentions of p(word of the caption | image)

    A caption always mentions the colors and the shape. Size, texture and position count if the caption names them.

    Args:
        checker: a classifier of the attributes, in eval mode; the packaged one if None.
    """

    def __init__(self, checker: Checker | None = None) -> None:
        self._checker = checker if checker is not None else _packaged_checker()

    def __call__(self, images: Tensor, prompts: Sequence[str], metadata: Sequence[dict[str, Any]]) -> Tensor:
        """(images (B,3,32,32) in [0,1], captions of the shapes world, ...) -> (B,) in [0, 1].

        Raises:
            InputError: a prompt that is not such a caption, or images of another size.
        """
        require_shapes_images(images)
        require_captions(prompts)
        device = next(self._checker.parameters()).device
        rows = attribute_log_probs(self._checker, images.to(device).float(), prompts)
        return torch.tensor([sum(math.exp(value) for value in row.values()) / len(row) for row in rows])


def _packaged_checker() -> Checker:
    from stepcredit.shapes.pipeline import load_checker

    return load_checker()
