"""How well an image matches its prompt, by CLIP."""

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


@register_reward("clipscore")
class ClipScore:
    """CLIPScore, how well the image matches the prompt, from 0 to 100: CLIP ViT-L/14.

        r = scale max(cos(prefix + prompt, image), 0)

    The image is resized to 224 x 224: bicubic resize of the shorter edge by Pillow, center crop, CLIP's mean and std.
    Prompts are truncated to 77 tokens. Matching images mostly score 20 to 35.
    Source: arXiv 2104.08718. The defaults (ViT-L/14, scale 100, no prefix) are those of torchmetrics and most
    text-to-image papers. The original paper uses path=openai/clip-vit-base-patch32, scale=2.5,
    prefix="A photo depicts ".

    Args:
        path: hub id or folder of a CLIP model.
        tokenizer: hub id or folder; by default that of `path`.
        revision: branch, tag or commit of `path` on the hub.
        scale: above 0.
        prefix: prepended to every prompt.
        dtype: of CLIP: float32, bfloat16 or float16.
        device: auto, cpu, cuda or cuda:N.
        batch_size: images per forward.

    Raises:
        InputError: weights that are not found or do not fit; an invalid scale, dtype, device or batch size.
    """

    CARD = RewardCard(
        weights="openai/clip-vit-large-patch14",
        size="428M parameters, 1.7 GB in float32",
        license="MIT",
        needs="download",
    )

    def __init__(
        self,
        path: str = "openai/clip-vit-large-patch14",
        tokenizer: str | None = None,
        revision: str | None = None,
        scale: float = 100.0,
        prefix: str = "",
        dtype: str = "float32",
        device: str = "auto",
        batch_size: int = 16,
    ) -> None:
        if not isinstance(scale, int | float) or not scale > 0:
            raise InputError(f"scale is {scale!r}, expected a number above 0")
        self._placement = place(device, dtype, batch_size)
        self._scale, self._prefix = scale, prefix
        self._towers = Towers(path, revision, tokenizer, path, self._placement, center="round")

    @property
    def text_limit(self) -> TextLimit:
        """How much of a prompt the text encoder reads."""
        return self._towers.text_limit(self._prefix)

    def __call__(self, images: Images, prompts: Sequence[str], metadata: Sequence[dict[str, Any]]) -> Tensor:
        """(images (B,3,H,W) in [0,1], prompts, ...) -> (B,), at least 0."""
        texts = [self._prefix + prompt for prompt in prompts]
        return self._scale * self._placement.scores(self._towers.cosine, images, texts).clamp(min=0)
