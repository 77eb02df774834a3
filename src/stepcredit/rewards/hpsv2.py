"""HPSv2: human preference between images of a prompt, learned from comparisons of many generators and styles."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.nn.functional import normalize

from stepcredit.errors import InputError
from stepcredit.prompts.text_limit import TextLimit
from stepcredit.rewards import register_reward
from stepcredit.rewards.core.card import RewardCard
from stepcredit.rewards.core.extras import require_extra
from stepcredit.rewards.vision.images import Images
from stepcredit.rewards.vision.placement import place
from stepcredit.rewards.vision.preprocess import LongestEdgePad
from stepcredit.rewards.vision.weights import fill, find_file, read_tensors

VISION_HEAD_WIDTH, TEXT_HEAD_WIDTH = 80, 64
"""Width of the attention heads of open_clip's ViT-H-14."""


@register_reward("hpsv2")
class HpsV2:
    """Human Preference Score v2 for an image given its prompt, about 0.2 to 0.3: a CLIP ViT-H/14.

        r = cos(text, image)

    The image is resized to 224 x 224: bicubic resize of the longer edge in floating point, padding with black, CLIP's
    mean and std. Prompts are truncated to 77 tokens. Published tables report 100 r, such as 26.95 for Stable Diffusion
    1.4. Do not compare scores of different prompts. The original code runs in half precision under autocast; the
    default here is float32.
    Source: arXiv 2306.09341, weights HPS_v2_compressed.pt.

    Args:
        path: the file (or the same tensors as .safetensors), its folder, or a hub id.
        revision: branch, tag or commit of `path` on the hub.
        antialias: of the resize. The original code uses torchvision's default, which changed from False to True in
            version 0.17; False reproduces the scores that the authors published in 2023.
        dtype: of CLIP: float32, bfloat16 or float16.
        device: auto, cpu, cuda or cuda:N.
        batch_size: images per forward.

    Raises:
        InputError: weights that are not found or do not fit; an invalid dtype, device or batch size; open_clip is not
            installed.
    """

    FILE = "HPS_v2_compressed.pt"
    CARD = RewardCard(
        weights="xswu/HPSv2 (HPS_v2_compressed.pt)",
        size="986M parameters, 3.9 GB in float32",
        license="Apache-2.0",
        needs="download",
        extra="rewards",
    )

    def __init__(
        self,
        path: str = "xswu/HPSv2",
        revision: str | None = None,
        antialias: bool = True,
        dtype: str = "float32",
        device: str = "auto",
        batch_size: int = 16,
    ) -> None:
        require_extra("open_clip", "rewards", "HPSv2")
        if not isinstance(antialias, bool):
            raise InputError(f"antialias is {antialias!r}, expected true or false")
        self._placement = place(device, dtype, batch_size)
        file = find_file(path, [self.FILE], revision)
        open_clip = importlib.import_module("open_clip")
        model = load_clip(open_clip, read_tensors(file), file)
        self._tokenizer = open_clip.SimpleTokenizer(context_length=model.context_length)
        self._preprocess = LongestEdgePad(model.visual.image_size[0], antialias)
        self._model = model.to(self._placement.device, self._placement.dtype)

    @property
    def text_limit(self) -> TextLimit:
        """How much of a prompt the text encoder reads."""

        def count(prompts: Sequence[str]) -> list[int]:
            return [len(self._tokenizer.encode(prompt)) + 2 for prompt in prompts]  # a first and a last token

        return TextLimit("CLIP", self._tokenizer.context_length, count)

    def __call__(self, images: Images, prompts: Sequence[str], metadata: Sequence[dict[str, Any]]) -> Tensor:
        """(images (B,3,H,W) in [0,1], prompts, ...) -> (B,) in [-1, 1]."""
        return self._placement.scores(self._cosine, images, prompts)

    def _cosine(self, images: Images, prompts: Sequence[str]) -> Tensor:
        pixels = self._preprocess(images).to(self._placement.device, self._placement.dtype)
        tokens = self._tokenizer(list(prompts)).to(self._placement.device)
        image = normalize(self._model.encode_image(pixels).float(), dim=-1)
        text = normalize(self._model.encode_text(tokens).float(), dim=-1)
        return (image * text).sum(-1)


@register_reward("hpsv2.1")
class HpsV21(HpsV2):
    """Human Preference Score v2.1, about 0.2 to 0.35: HPSv2 retrained on better data.

    It differs from HPSv2 only in the weights, HPS_v2.1_compressed.pt. Do not compare the scores of the two.
    """

    FILE = "HPS_v2.1_compressed.pt"
    CARD = RewardCard(
        weights="xswu/HPSv2 (HPS_v2.1_compressed.pt)",
        size="986M parameters, 3.9 GB in float32",
        license="Apache-2.0",
        needs="download",
        extra="rewards",
    )


def load_clip(open_clip: Any, tensors: Mapping[str, Tensor], file: Path) -> Any:
    """open_clip's CLIP with these weights, in eval mode; the heads have the width of ViT-H-14."""
    try:
        sizes = _sizes(tensors)
    except KeyError as error:
        raise InputError(
            f"the weights in {file} are not those of an open_clip model: they have no {error.args[0]}"
        ) from error
    model = open_clip.CLIP(**sizes)
    fill(model, tensors, file)
    return model.eval().requires_grad_(False)


def _sizes(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    width, _, patch, _ = tensors["visual.conv1.weight"].shape
    patches = len(tensors["visual.positional_embedding"]) - 1
    vocabulary, text_width = tensors["token_embedding.weight"].shape
    return {
        "embed_dim": tensors["text_projection"].shape[1],
        "vision_cfg": {
            "image_size": patch * round(patches**0.5),
            "patch_size": patch,
            "width": width,
            "layers": _layers(tensors, "visual.transformer.resblocks."),
            "head_width": VISION_HEAD_WIDTH,
        },
        "text_cfg": {
            "context_length": len(tensors["positional_embedding"]),
            "vocab_size": vocabulary,
            "width": text_width,
            "heads": text_width // TEXT_HEAD_WIDTH,
            "layers": _layers(tensors, "transformer.resblocks."),
        },
    }


def _layers(tensors: Mapping[str, Tensor], prefix: str) -> int:
    return len({name.removeprefix(prefix).split(".")[0] for name in tensors if name.startswith(prefix)})
