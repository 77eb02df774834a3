"""The vision-language model of ImageReward: BLIP of transformers with the published weights."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from stepcredit.errors import InputError
from stepcredit.rewards.vision.weights import fill

HEAD_WIDTH = 64
"""Width of the attention heads of BLIP's vision and text models, base and large."""

_VISION, _TEXT = "blip.visual_encoder.", "blip.text_encoder."
_VISION_NAMES = (
    (r"^cls_token$", "embeddings.class_embedding"),
    (r"^pos_embed$", "embeddings.position_embedding"),
    (r"^patch_embed\.proj\.", "embeddings.patch_embedding."),
    (r"^norm\.", "post_layernorm."),
    (r"^blocks\.", "encoder.layers."),
    (r"\.norm([12])\.", r".layer_norm\1."),
    (r"\.attn\.qkv\.", ".self_attn.qkv."),
    (r"\.attn\.proj\.", ".self_attn.projection."),
)


class Blip(nn.Module):
    """BLIP of ImageReward: the text model attends to the image; its first token is the output.

    All sizes follow from the weights. LayerNorm has epsilon 1e-6 in the vision model and 1e-12 in the text model, as in
    the original code (transformers' defaults differ).

    Args:
        tensors: by published name, `blip.visual_encoder.*` and `blip.text_encoder.*`; others are ignored.
        source: file of the tensors, for errors.

    Attributes:
        image_size: edge of the images, in pixels.
        width: of the text features.
    """

    def __init__(self, tensors: Mapping[str, Tensor], source: object) -> None:
        from transformers import BlipTextModel, BlipVisionModel

        super().__init__()
        vision, text = vision_weights(tensors), text_weights(tensors)
        try:
            vision_config, text_config = _vision_config(vision), _text_config(text)
        except KeyError as error:
            raise InputError(
                f"the weights in {source} are not those of ImageReward: they have no {error.args[0]}"
            ) from error
        self.vision, self.text = BlipVisionModel(vision_config), BlipTextModel(text_config, add_pooling_layer=False)
        fill(self.vision, vision, source)
        fill(self.text, text, source)
        self.image_size: int = vision_config.image_size
        self.width: int = text_config.hidden_size

    def forward(self, pixels: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        """(images (B,3,S,S), token ids (B,N), attention mask (B,N)) -> (B, width)."""
        states = self.vision(pixel_values=pixels).last_hidden_state
        output = self.text(input_ids=tokens, attention_mask=mask, encoder_hidden_states=states)
        first: Tensor = output.last_hidden_state[:, 0]
        return first


def vision_weights(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of the vision model under the names of BlipVisionModel."""
    named = {name.removeprefix(_VISION): tensor for name, tensor in tensors.items() if name.startswith(_VISION)}
    return {_renamed(name): tensor for name, tensor in named.items()}


def text_weights(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of the text model under the names of BlipTextModel, without the buffer of position ids."""
    named = {name.removeprefix(_TEXT): tensor for name, tensor in tensors.items() if name.startswith(_TEXT)}
    return {name: tensor for name, tensor in named.items() if not name.endswith("position_ids")}


def _renamed(name: str) -> str:
    for pattern, replacement in _VISION_NAMES:
        name = re.sub(pattern, replacement, name)
    return name


def _vision_config(weights: Mapping[str, Tensor]) -> Any:
    from transformers import BlipVisionConfig

    width, _, _, patch = weights["embeddings.patch_embedding.weight"].shape
    patches = weights["embeddings.position_embedding"].shape[1] - 1
    return BlipVisionConfig(
        hidden_size=width,
        intermediate_size=weights["encoder.layers.0.mlp.fc1.weight"].shape[0],
        num_hidden_layers=_layers(weights, "encoder.layers."),
        num_attention_heads=width // HEAD_WIDTH,
        image_size=patch * round(patches**0.5),
        patch_size=patch,
        layer_norm_eps=1e-6,
    )


def _text_config(weights: Mapping[str, Tensor]) -> Any:
    from transformers import BlipTextConfig

    vocabulary, width = weights["embeddings.word_embeddings.weight"].shape
    return BlipTextConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        encoder_hidden_size=weights["encoder.layer.0.crossattention.self.key.weight"].shape[1],
        intermediate_size=weights["encoder.layer.0.intermediate.dense.weight"].shape[0],
        num_hidden_layers=_layers(weights, "encoder.layer."),
        num_attention_heads=width // HEAD_WIDTH,
        max_position_embeddings=weights["embeddings.position_embeddings.weight"].shape[0],
        layer_norm_eps=1e-12,
        bos_token_id=None,
        eos_token_id=None,
        sep_token_id=None,
    )


def _layers(weights: Mapping[str, Tensor], prefix: str) -> int:
    return len({name.removeprefix(prefix).split(".")[0] for name in weights if name.startswith(prefix)})
