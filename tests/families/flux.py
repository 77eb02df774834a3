"""FLUX.1: a CLIP and a T5, double and single blocks, packed latents, the guidance scale as an input of the model."""

from __future__ import annotations

from typing import Any

from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
from tests.families.parts import flow_vae, randomize, ready, seeded
from tests.tiny import TEXT_WIDTH, tiny_t5, tiny_t5_tokenizer, tiny_text_encoder, tiny_tokenizer

CALL: dict[str, Any] = {"height": 16, "width": 16, "max_sequence_length": 12}
TRUE_CFG: dict[str, Any] = {"true_cfg_scale": 4.0, "negative_prompt": "bad"}


def build(seed: int = 0, layers: int = 1) -> FluxPipeline:
    """16x16 images, 4x8x8 latents packed to 16 tokens of 16 channels; `layers` double blocks and as many single."""
    with seeded(seed):
        tokenizer = tiny_tokenizer()
        transformer = FluxTransformer2DModel(
            patch_size=1,
            in_channels=16,
            num_layers=layers,
            num_single_layers=layers,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=TEXT_WIDTH,
            pooled_projection_dim=TEXT_WIDTH,
            guidance_embeds=True,
            axes_dims_rope=(2, 2, 4),
        )
        return ready(
            FluxPipeline(
                scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
                vae=flow_vae(),
                text_encoder=tiny_text_encoder(tokenizer),
                tokenizer=tokenizer,
                text_encoder_2=tiny_t5(),
                tokenizer_2=tiny_t5_tokenizer(),
                transformer=randomize(transformer),
            )
        )
