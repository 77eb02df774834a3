"""ImageReward: human preference for an image given its prompt, learned from rankings by experts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from stepcredit.prompts.text_limit import TextLimit
from stepcredit.rewards import register_reward
from stepcredit.rewards.core.card import RewardCard
from stepcredit.rewards.vision.blip import Blip
from stepcredit.rewards.vision.images import Images
from stepcredit.rewards.vision.placement import place
from stepcredit.rewards.vision.predictor import LinearPredictor
from stepcredit.rewards.vision.preprocess import ShortestEdgeCrop
from stepcredit.rewards.vision.weights import fill, find_file, load_tokenizer, read_tensors

MEAN, STD = 0.16717362830052426, 1.0333394966054072
"""Of the raw rewards, from the original code."""

TOKENS = 35
TOKENIZER = "google-bert/bert-base-uncased"


@register_reward("imagereward")
class ImageReward:
    """ImageReward, the human preference for an image given its prompt, about -2 to 2: BLIP and a linear predictor.

        r = (predictor(h) - 0.16717362830052426) / 1.0333394966054072,   h the first text token after BLIP

    The image is resized to 224 x 224: bicubic resize of the shorter edge by Pillow, center crop, CLIP's mean and std.
    Prompts are padded or truncated to 35 tokens of BERT. The first token is [CLS], as in the original code, and not
    [ENC], as in BLIP. Rewards are standardized over the authors' data: 0 is an average image. The predictor always runs
    in float32.
    Source: arXiv 2304.05977, weights ImageReward.pt (version 1.0).

    Args:
        path: file ImageReward.pt (or the same tensors as .safetensors), its folder, or a hub id.
        tokenizer: hub id or folder; by default that of the folder `path` if it has one, else BERT's.
        revision: branch, tag or commit of `path` on the hub.
        dtype: of BLIP: float32, bfloat16 or float16.
        device: auto, cpu, cuda or cuda:N.
        batch_size: images per forward.

    Raises:
        InputError: weights that are not found or do not fit; an invalid dtype, device or batch size.
    """

    CARD = RewardCard(
        weights="THUDM/ImageReward, tokenizer of google-bert/bert-base-uncased",
        size="446M parameters, 1.8 GB in float32",
        license="Apache-2.0",
        needs="download",
    )

    def __init__(
        self,
        path: str = "THUDM/ImageReward",
        tokenizer: str | None = None,
        revision: str | None = None,
        dtype: str = "float32",
        device: str = "auto",
        batch_size: int = 16,
    ) -> None:
        from transformers import BertTokenizer

        self._placement = place(device, dtype, batch_size)
        file = find_file(path, ["ImageReward.pt"], revision)
        self._tokenizer: Any = load_tokenizer(BertTokenizer, tokenizer, path, TOKENIZER, None)
        tensors = read_tensors(file)
        blip = Blip(tensors, file).eval().requires_grad_(False)
        self._preprocess = ShortestEdgeCrop(blip.image_size)
        self._predictor = LinearPredictor(blip.width).eval().requires_grad_(False)
        head = {name.removeprefix("mlp."): value for name, value in tensors.items() if name.startswith("mlp.")}
        fill(self._predictor, head, file)
        self._blip = blip.to(self._placement.device, self._placement.dtype)
        self._predictor.to(self._placement.device)

    @property
    def text_limit(self) -> TextLimit:
        """How much of a prompt the text encoder reads."""

        def count(prompts: Sequence[str]) -> list[int]:
            return [len(ids) for ids in self._tokenizer(list(prompts), verbose=False)["input_ids"]]

        return TextLimit("BLIP", TOKENS, count)

    def __call__(self, images: Images, prompts: Sequence[str], metadata: Sequence[dict[str, Any]]) -> Tensor:
        """(images (B,3,H,W) in [0,1], prompts, ...) -> (B,)."""
        return self._placement.scores(self._score, images, prompts)

    def _score(self, images: Images, prompts: Sequence[str]) -> Tensor:
        tokens = self._tokenizer(
            list(prompts), padding="max_length", truncation=True, max_length=TOKENS, return_tensors="pt"
        ).to(self._placement.device)
        pixels = self._preprocess(images).to(self._placement.device, self._placement.dtype)
        features = self._blip(pixels, tokens.input_ids, tokens.attention_mask)
        raw: Tensor = self._predictor(features.float())
        return (raw - MEAN) / STD
