"""FLUX.2 Klein: a Qwen3 read at three depths, double and single blocks, two calls per guided step."""

from __future__ import annotations

from typing import Any

from diffusers import (
    AutoencoderKLFlux2,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Transformer2DModel,
)
from tests.families.parts import byte_tokenizer, qwen3_config, randomize, ready, seeded
from tests.tiny import TEXT_WIDTH
from transformers import Qwen3ForCausalLM

CALL: dict[str, Any] = {
    "height": 16,
    "width": 16,
    "max_sequence_length": 40,
    "text_encoder_out_layers": (1, 2, 3),
}


def build(seed: int = 0, layers: int = 1) -> Flux2KleinPipeline:
    """16x16 images, 4x8x8 latents packed to 16 tokens of 16 channels; `layers` double blocks and as many single."""
    with seeded(seed):
        tokenizer = byte_tokenizer()
        transformer = Flux2Transformer2DModel(
            in_channels=16,
            num_layers=layers,
            num_single_layers=layers,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=3 * TEXT_WIDTH,
            timestep_guidance_channels=16,
            axes_dims_rope=(2, 2, 2, 2),
            guidance_embeds=False,
        )
        vae = AutoencoderKLFlux2(
            block_out_channels=(4, 8),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            layers_per_block=1,
            latent_channels=4,
            norm_num_groups=4,
            mid_block_add_attention=False,
        )
        return ready(
            Flux2KleinPipeline(
                scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
                vae=vae,
                text_encoder=Qwen3ForCausalLM(qwen3_config(tokenizer, layers=3)),
                tokenizer=tokenizer,
                transformer=randomize(transformer),
            )
        )
