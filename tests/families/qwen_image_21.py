"""Qwen-Image 2.1: a Qwen3-VL with its processor, one stream of blocks, images with an alpha channel."""

from __future__ import annotations

from typing import Any

from diffusers import (
    AutoencoderKLQwenImage21,
    FlowMatchEulerDiscreteScheduler,
    QwenImage21Pipeline,
    QwenImage21Transformer2DModel,
)
from tests.families.parts import byte_tokenizer, qwen_text_config, randomize, ready, seeded
from tests.tiny import TEXT_WIDTH
from transformers import (
    Qwen2Tokenizer,
    Qwen2VLImageProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

CALL: dict[str, Any] = {"height": 64, "width": 64}
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% for part in message['content'] %}{{ part['text'] }}{% endfor %}<|im_end|>\n{% endfor %}"
)
VISION = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")


def text_encoder(tokenizer: Qwen2Tokenizer) -> Qwen3VLForConditionalGeneration:
    words = qwen_text_config(tokenizer) | {"head_dim": 8}
    vision = {
        "depth": 1,
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_heads": 2,
        "out_hidden_size": TEXT_WIDTH,
        "deepstack_visual_indexes": [0],
        "num_position_embeddings": 16,
    }
    return Qwen3VLForConditionalGeneration(Qwen3VLConfig(text_config=words, vision_config=vision))


def build(seed: int = 0, layers: int = 2, sample_sigmas: list[float] | None = None) -> QwenImage21Pipeline:
    """64x64 images, 4x4x4 latents packed to 16 tokens of 4 channels."""
    with seeded(seed):
        tokenizer = byte_tokenizer(VISION)
        transformer = QwenImage21Transformer2DModel(
            in_channels=4,
            out_channels=4,
            num_layers=layers,
            attention_head_dim=8,
            num_attention_heads=2,
            context_in_dim=TEXT_WIDTH,
            axes_dims_rope=(2, 2, 4),
        )
        vae = AutoencoderKLQwenImage21(
            base_dim=4,
            decoder_base_dim=4,
            z_dim=4,
            dim_mult=[1, 1, 1, 1, 1],
            num_res_blocks=1,
            latents_mean=[0.0] * 4,
            latents_std=[1.0] * 4,
        )
        processor = Qwen3VLProcessor(
            Qwen2VLImageProcessor(), tokenizer, Qwen3VLVideoProcessor(), chat_template=CHAT_TEMPLATE
        )
        return ready(
            QwenImage21Pipeline(
                scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
                vae=vae,
                text_encoder=text_encoder(tokenizer),
                processor=processor,
                transformer=randomize(transformer),
                sample_sigmas=sample_sigmas,
            )
        )
