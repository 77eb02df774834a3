"""Base class of the four rewards that were trained on synthetic preferences over images of the shapes world."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from stepcredit.rewards._shapes import require_captions, require_shapes_images


class Preference:
    """A small network that learned a hidden rule of the shapes world from synthetic pairwise preferences.

    Scores have mean 0 and standard deviation 1 on rendered images that passed through the autoencoder, half of them
    with the caption of another image.

    Attributes:
        rule: name of the hidden rule in `shapes.rules.RULES`.
        reads_caption: whether the score depends on the caption.

    Args:
        scorer: the network, in eval mode; the packaged one if None.
    """

    rule: ClassVar[str]
    reads_caption: ClassVar[bool] = False

    def __init__(self, scorer: nn.Module | None = None) -> None:
        self._scorer = scorer if scorer is not None else _packaged(self.rule)

    def __call__(self, images: Tensor, prompts: Sequence[str], metadata: Sequence[dict[str, Any]]) -> Tensor:
        """(images (B,3,32,32) in [0,1], prompts, ...) -> (B,), in standard deviations.

        Raises:
            InputError: images of another size, or, if the caption is read, a prompt that is not a caption.
        """
        require_shapes_images(images)
        if self.reads_caption:
            require_captions(prompts)
        device = next(self._scorer.parameters()).device
        scores: Tensor = self._scorer(images.to(device).float(), prompts)
        return scores


def _packaged(rule: str) -> nn.Module:
    from stepcredit.shapes.scorers import load_scorer

    return load_scorer(rule)
