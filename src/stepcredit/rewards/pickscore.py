"""PickScore: human preference between images of a prompt, learned from the users of a web application."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from stepcredit.errors import InputError
from stepcredit.prompts.text_limit import TextLimit
from stepcredit.rewards import register_reward
from stepcredit.rewards.core.card import RewardCard
from stepcredit.rewards.vision.clip import Towers
from stepcredit.rewards.vision.images import Images
from stepcredit.rewards.vision.placement import place

TOKENIZER = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"


@register_reward("pickscore")
class PickScore:
    """PickScore, the human preference for an image given its prompt, about 18 to 24: a CLIP ViT-H/14.

        r = exp(logit_scale) cos(text, image) / divide_by

    The image is resized to 224 x 224: bicubic resize of the shorter edge by Pillow, center crop as in transformers,
    CLIP's mean and std. Prompts are truncated to 77 tokens. Samples of Stable Diffusion mostly score 20 to 23. If the
    scores of two images of a prompt differ by d, people pick the better one with probability 1 / (1 + exp(-d)).
    Source: Pick-a-Pic, arXiv 2305.01569, weights PickScore_v1.

    Args:
        path: hub id or folder of the model.
        tokenizer: hub id or folder; by default that of the folder `path` if it has one, else the published one.
        revision: branch, tag or commit of `path` on the hub.
        divide_by: 1 gives scores that compare with published ones. Descendants of DDPO's code divide by 26, so that
            scores are near 1. Standardized advantages are the same for both.
        dtype: of CLIP: float32, bfloat16 or float16. The logit scale is never rounded.
        device: auto, cpu, cuda or cuda:N.
        batch_size: images per forward.

    Raises:
        InputError: weights that are not found or do not fit; an invalid divisor, dtype, device or batch size.
    """

    CARD = RewardCard(
        weights="yuvalkirstain/PickScore_v1, tokenizer of laion/CLIP-ViT-H-14-laion2B-s32B-b79K",
        size="986M parameters, 3.9 GB in float32",
        license="none stated (MIT for the CLIP it was tuned from)",
        needs="download",
    )

    def __init__(
        self,
        path: str = "yuvalkirstain/PickScore_v1",
        tokenizer: str | None = None,
        revision: str | None = None,
        divide_by: float = 1.0,
        dtype: str = "float32",
        device: str = "auto",
        batch_size: int = 16,
    ) -> None:
        if not isinstance(divide_by, int | float) or not divide_by > 0:
            raise InputError(f"divide_by is {divide_by!r}, expected a number above 0")
        self._placement = place(device, dtype, batch_size)
        self._towers = Towers(path, revision, tokenizer, TOKENIZER, self._placement, center="floor")
        self._factor = self._towers.logit_scale / divide_by

    @property
    def text_limit(self) -> TextLimit:
        """How much of a prompt the text encoder reads."""
        return self._towers.text_limit()

    def __call__(self, images: Images, prompts: Sequence[str], metadata: Sequence[dict[str, Any]]) -> Tensor:
        """(images (B,3,H,W) in [0,1], prompts, ...) -> (B,)."""
        return self._factor * self._placement.scores(self._towers.cosine, images, prompts)
