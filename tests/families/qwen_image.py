"""Qwen-Image: a Qwen2.5-VL, joint blocks, packed latents, guidance by `true_cfg_scale` with a rescaled norm."""

from __future__ import annotations

from typing import Any

from diffusers import (
    AutoencoderKLQwenImage,
    FlowMatchEulerDiscreteScheduler,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
)
from tests.families.parts import byte_tokenizer, qwen_text_config, randomize, ready, seeded
from tests.tiny import TEXT_WIDTH
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2Tokenizer

CALL: dict[str, Any] = {"height": 16, "width": 16, "max_sequence_length": 40}
INSTRUCTION = (
    "system Describe the image by detailing color shape size texture quantity text spatial relationships of objects "
    "and background user assistant"
)
"""The words of the pipeline's template: it drops the first 34 tokens, so each of them has to be one."""


def text_encoder(tokenizer: Qwen2Tokenizer) -> Qwen2_5_VLForConditionalGeneration:
    padding = tokenizer.pad_token_id
    words = qwen_text_config(tokenizer) | {"bos_token_id": padding, "eos_token_id": padding}
    vision = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": TEXT_WIDTH}
    return Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(text_config=words, vision_config=vision))


def build(seed: int = 0, layers: int = 2) -> QwenImagePipeline:
    """16x16 images, 4x8x8 latents packed to 16 tokens of 16 channels."""
    with seeded(seed):
        words = INSTRUCTION.split()
        tokenizer = byte_tokenizer([*(f" {word}" for word in words), "system", "Describe", "user", "assistant"])
        transformer = QwenImageTransformer2DModel(
            in_channels=16,
            out_channels=4,
            num_layers=layers,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=TEXT_WIDTH,
            axes_dims_rope=(2, 2, 4),
        )
        vae = AutoencoderKLQwenImage(
            base_dim=4,
            z_dim=4,
            dim_mult=[1, 2],
            num_res_blocks=1,
            temperal_downsample=[False],
            latents_mean=[0.0] * 4,
            latents_std=[1.0] * 4,
        )
        return ready(
            QwenImagePipeline(
                scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
                vae=vae,
                text_encoder=text_encoder(tokenizer),
                tokenizer=tokenizer,
                transformer=randomize(transformer),
            )
        )
