"""Aesthetic quality of an image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from stepcredit.rewards import register_reward
from stepcredit.rewards.core.card import RewardCard
from stepcredit.rewards.vision.clip import ImageTower
from stepcredit.rewards.vision.images import Images
from stepcredit.rewards.vision.placement import place
from stepcredit.rewards.vision.predictor import LinearPredictor
from stepcredit.rewards.vision.weights import fill, find_file, read_tensors

PREDICTORS = ("aesthetic-model.pth", "sac+logos+ava1-l14-linearMSE.pth")
"""Names of the predictor's file: on the hub, and in the original repository."""


@register_reward("aesthetic")
class Aesthetic:
    """Aesthetic score of the image, about 1 to 10: LAION's linear predictor on CLIP ViT-L/14.

        r = predictor(e / |e|),   e the projected image embedding

    The image is resized to 224 x 224: bicubic resize of the shorter edge by Pillow, center crop, CLIP's mean and std.
    Photographs and samples of Stable Diffusion mostly score 4 to 7. The prompt is ignored. The predictor always runs in
    float32.
    Source: christophschuhmann/improved-aesthetic-predictor, `sac+logos+ava1-l14-linearMSE.pth`; used by DDPO (arXiv
    2305.13301) and CoCA (arXiv 2505.19196).

    Args:
        path: hub id or folder of the CLIP model.
        predictor: file, folder or hub id of the predictor (.pth or .safetensors, with tensors `layers.0.weight` etc.).
        revision: branch, tag or commit of `path` on the hub.
        predictor_revision: branch, tag or commit of `predictor` on the hub.
        dtype: of CLIP: float32, bfloat16 or float16.
        device: auto, cpu, cuda or cuda:N.
        batch_size: images per forward.

    Raises:
        InputError: weights that are not found or do not fit; an invalid dtype, device or batch size.
    """

    CARD = RewardCard(
        weights="openai/clip-vit-large-patch14, trl-lib/ddpo-aesthetic-predictor",
        size="305M parameters, 1.2 GB in float32",
        license="MIT (CLIP), Apache-2.0 (predictor)",
        needs="download",
    )

    def __init__(
        self,
        path: str = "openai/clip-vit-large-patch14",
        predictor: str = "trl-lib/ddpo-aesthetic-predictor",
        revision: str | None = None,
        predictor_revision: str | None = None,
        dtype: str = "float32",
        device: str = "auto",
        batch_size: int = 16,
    ) -> None:
        self._placement = place(device, dtype, batch_size)
        file = find_file(predictor, PREDICTORS, predictor_revision, option="predictor")
        self._tower = ImageTower(path, revision, self._placement, center="round")
        self._predictor = LinearPredictor(self._tower.width).eval().requires_grad_(False)
        fill(self._predictor, read_tensors(file), file)
        self._predictor.to(self._placement.device)

    def __call__(self, images: Images, prompts: Sequence[str], metadata: Sequence[dict[str, Any]]) -> Tensor:
        """(images (B,3,H,W) in [0,1], ...) -> (B,)."""
        return self._placement.scores(lambda rows, _: self._predictor(self._tower(rows)), images, prompts)
