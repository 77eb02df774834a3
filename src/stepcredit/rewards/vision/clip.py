"""CLIP of transformers: normalized embeddings of images and texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from torch import Tensor
from torch.nn.functional import normalize

from stepcredit.prompts.text_limit import TextLimit
from stepcredit.rewards.vision.images import Images
from stepcredit.rewards.vision.placement import Placement
from stepcredit.rewards.vision.preprocess import ShortestEdgeCrop
from stepcredit.rewards.vision.weights import load_pretrained, load_tokenizer, require_model

TOKENS = 77
"""Longer prompts are truncated to this number of tokens, including the first and last special tokens."""


class ImageTower:
    """The image encoder of CLIP.

    Args:
        path: hub id or folder of a CLIPModel.
        revision: branch, tag or commit on the hub.
        placement: device, dtype and batch size.
        center: rounding of the crop, see ShortestEdgeCrop.
    """

    def __init__(
        self, path: str, revision: str | None, placement: Placement, center: Literal["round", "floor"]
    ) -> None:
        from transformers import CLIPVisionModelWithProjection

        others = ("text_model.", "text_projection.", "logit_scale")
        model = load_pretrained(CLIPVisionModelWithProjection, path, revision, others)
        self._placement = placement
        self._model = model.to(placement.device, placement.dtype)
        self._preprocess = ShortestEdgeCrop(model.config.image_size, center)
        self.width: int = model.config.projection_dim

    def __call__(self, images: Images) -> Tensor:
        """B images -> (B, width), float32, of norm 1."""
        pixels = self._preprocess(images).to(self._placement.device, self._placement.dtype)
        return normalize(self._model(pixel_values=pixels).image_embeds.float(), dim=-1)


class Towers:
    """The image and text encoders of CLIP.

    Args:
        path: hub id or folder of a CLIPModel.
        revision: branch, tag or commit on the hub.
        tokenizer: hub id or folder; by default that of the folder `path` if it has one, else `published`.
        published: hub id of the tokenizer.
        placement: device, dtype and batch size.
        center: rounding of the crop, see ShortestEdgeCrop.

    Attributes:
        logit_scale: exp of the learned parameter, computed before the weights are cast to the placement's dtype.
    """

    def __init__(
        self,
        path: str,
        revision: str | None,
        tokenizer: str | None,
        published: str,
        placement: Placement,
        center: Literal["round", "floor"],
    ) -> None:
        from transformers import CLIPModel, CLIPTokenizer

        require_model(path, revision)  # before a tokenizer is downloaded
        same = published == path
        self._tokenizer: Any = load_tokenizer(CLIPTokenizer, tokenizer, path, published, revision if same else None)
        model = load_pretrained(CLIPModel, path, revision)
        self.logit_scale: float = model.logit_scale.exp().item()
        self._placement = placement
        self._model = model.to(placement.device, placement.dtype)
        self._preprocess = ShortestEdgeCrop(model.config.vision_config.image_size, center)
        self._tokens = min(TOKENS, model.config.text_config.max_position_embeddings)

    def text_limit(self, prefix: str = "") -> TextLimit:
        """How much of a prompt the text encoder reads after `prefix`."""

        def count(prompts: Sequence[str]) -> list[int]:
            return [
                len(ids) for ids in self._tokenizer([prefix + text for text in prompts], verbose=False)["input_ids"]
            ]

        return TextLimit("CLIP", self._tokens, count)

    def cosine(self, images: Images, prompts: Sequence[str]) -> Tensor:
        """Cosine similarity of each image with its own prompt: (B,) in [-1, 1], float32."""
        return (self._images(images) * self._texts(prompts)).sum(-1)

    def _images(self, images: Images) -> Tensor:
        pixels = self._preprocess(images).to(self._placement.device, self._placement.dtype)
        pooled = self._model.vision_model(pixel_values=pixels).pooler_output
        return normalize(self._model.visual_projection(pooled).float(), dim=-1)

    def _texts(self, prompts: Sequence[str]) -> Tensor:
        tokens = self._tokenizer(
            list(prompts), padding=True, truncation=True, max_length=self._tokens, return_tensors="pt"
        ).to(self._placement.device)
        pooled = self._model.text_model(**tokens).pooler_output
        return normalize(self._model.text_projection(pooled).float(), dim=-1)
