"""Z-Image: a Qwen3, refiners before one stream of image and text, lists of ragged prompts, float32 latents."""

from __future__ import annotations

from typing import Any

from diffusers import FlowMatchEulerDiscreteScheduler, ZImagePipeline, ZImageTransformer2DModel
from tests.families.parts import byte_tokenizer, flow_vae, qwen3_config, randomize, ready, seeded
from tests.tiny import TEXT_WIDTH
from transformers import Qwen3Model

CALL: dict[str, Any] = {"height": 16, "width": 16, "max_sequence_length": 48}


def build(seed: int = 0, layers: int = 1) -> ZImagePipeline:
    """16x16 images, 4x8x8 latents, 16 image tokens (padded to 32); `layers` blocks after as many in each refiner."""
    with seeded(seed):
        tokenizer = byte_tokenizer()
        transformer = ZImageTransformer2DModel(
            in_channels=4,
            dim=16,
            n_layers=layers,
            n_refiner_layers=layers,
            n_heads=2,
            n_kv_heads=2,
            cap_feat_dim=TEXT_WIDTH,
            axes_dims=[2, 2, 4],
            axes_lens=[128, 16, 16],
        )
        return ready(
            ZImagePipeline(
                scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
                vae=flow_vae(),
                text_encoder=Qwen3Model(qwen3_config(tokenizer, layers=2)),
                tokenizer=tokenizer,
                transformer=randomize(transformer),
            )
        )
