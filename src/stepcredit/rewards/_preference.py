"""What the four embedded preference rewards share: a packaged scorer, loaded once and given images of its world."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from stepcredit.rewards._shapes import require_captions, require_shapes_images


class Preference:
    """Base of the rewards that learned a hidden rule of the shapes world from synthetic pairwise preferences.

    Scores have mean 0 and standard deviation 1 on renders that went through the autoencoder, half of them with the
    caption of another.

    Attributes:
        rule: the hidden rule's name in `embedded.rules.RULES`.
        reads: whether it judges the caption too.

    Args:
        scorer: judges the images, in eval mode; the packaged one if None.
    """

    rule: ClassVar[str]
    reads: ClassVar[bool] = False

    def __init__(self, scorer: nn.Module | None = None) -> None:
        self._scorer = scorer if scorer is not None else _packaged(self.rule)

    def __call__(self, images: Tensor, prompts: Sequence[str], metadata: Sequence[dict[str, Any]]) -> Tensor:
        """(images (B,3,32,32) in [0,1], prompts, ...) -> (B,), in standard deviations.

        Raises:
            InputError: images of another size, or, where the caption is read, a prompt that is none of the world.
        """
        require_shapes_images(images, "scorer")
        if self.reads:
            require_captions(prompts)
        device = next(self._scorer.parameters()).device
        scores: Tensor = self._scorer(images.to(device).float(), prompts)
        return scores


def _packaged(rule: str) -> nn.Module:
    from stepcredit.shapes.scorers import load_scorer

    return load_scorer(rule)
