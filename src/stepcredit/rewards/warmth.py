"""How warm an image is: the cheapest reward there is, differentiable in principle and easy to read in the samples."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from stepcredit.rewards import register_reward


@register_reward("warmth")
@dataclass(frozen=True)
class Warmth:
    """Mean red minus mean blue of the image, from -1 (blue) to 1 (red).

    Grey images score 0. The prompt plays no part.
    """

    def __call__(self, images: Tensor, prompts: Sequence[str], metadata: Sequence[dict[str, Any]]) -> Tensor:
        """(images (B,3,H,W) in [0,1], ...) -> (B,) in [-1, 1]."""
        red, _, blue = images.float().mean((2, 3)).unbind(1)
        return red - blue
