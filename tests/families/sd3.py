"""Stable Diffusion 3.5: two CLIPs and a T5, joint blocks, the first with a second attention as in 3.5 medium."""

from __future__ import annotations

from typing import Any

from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline
from tests.families.parts import flow_vae, randomize, ready, seeded
from tests.tiny import TEXT_WIDTH, tiny_t5, tiny_t5_tokenizer, tiny_text_encoder, tiny_tokenizer
from transformers import CLIPTextModelWithProjection

CALL: dict[str, Any] = {"height": 16, "width": 16, "max_sequence_length": 12}

SKIP_LAYER_GUIDANCE: dict[str, Any] = {
    "skip_guidance_layers": [0],
    "skip_layer_guidance_start": 0.01,
    "skip_layer_guidance_stop": 0.6,
}
"""In use at steps 1 and 2 of 4, not at 0 and 3."""


def build(seed: int = 0, layers: int = 2) -> StableDiffusion3Pipeline:
    """16x16 images, 4x8x8 latents, 16 image tokens."""
    with seeded(seed):
        tokenizer = tiny_tokenizer()
        transformer = SD3Transformer2DModel(
            sample_size=8,
            patch_size=2,
            in_channels=4,
            out_channels=4,
            num_layers=layers,
            attention_head_dim=8,
            num_attention_heads=2,
            caption_projection_dim=16,
            joint_attention_dim=2 * TEXT_WIDTH,
            pooled_projection_dim=2 * TEXT_WIDTH,
            pos_embed_max_size=8,
            dual_attention_layers=(0,),
            qk_norm="rms_norm",
        )
        return ready(
            StableDiffusion3Pipeline(
                transformer=randomize(transformer),
                scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
                vae=flow_vae(),
                text_encoder=tiny_text_encoder(tokenizer, CLIPTextModelWithProjection),
                tokenizer=tokenizer,
                text_encoder_2=tiny_text_encoder(tokenizer, CLIPTextModelWithProjection),
                tokenizer_2=tiny_tokenizer(),
                text_encoder_3=tiny_t5(2 * TEXT_WIDTH),
                tokenizer_3=tiny_t5_tokenizer(),
            )
        )
