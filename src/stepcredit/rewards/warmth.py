"""How warm the colors of an image are: the cheapest reward, whose effect is easy to see in the samples."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from stepcredit.rewards import register_reward


@register_reward("warmth")
@dataclass(frozen=True)
class Warmth:
    """Mean red minus mean blue of the image, from -1 (blue) to 1 (red).

    Gray images score 0. The prompt is ignored.
    """

    def __call__(self, images: Tensor, prompts: Sequence[str], metadata: Sequence[dict[str, Any]]) -> Tensor:
        """(images (B,3,H,W) in [0,1], ...) -> (B,) in [-1, 1]."""
        red, _, blue = images.float().mean((2, 3)).unbind(1)
        return red - blue
