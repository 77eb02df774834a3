"""Sana: a Gemma2, linear self-attention beside cross-attention, a deep-compression autoencoder, a flow DPM-Solver."""

from __future__ import annotations

from typing import Any

from diffusers import AutoencoderDC, DPMSolverMultistepScheduler, SanaPipeline, SanaTransformer2DModel
from tests.families.parts import byte_tokenizer, randomize, ready, seeded
from tests.tiny import TEXT_WIDTH
from transformers import Gemma2Config, Gemma2Model

CALL: dict[str, Any] = {
    "height": 32,
    "width": 32,
    "max_sequence_length": 16,
    "use_resolution_binning": False,
    "complex_human_instruction": None,
}


def autoencoder() -> AutoencoderDC:
    """Four times fewer pixels each way: Sana takes no images under 32x32."""
    widths, kinds = (4, 4, 8), ("ResBlock", "ResBlock", "EfficientViTBlock")
    return AutoencoderDC(
        latent_channels=4,
        attention_head_dim=4,
        encoder_block_types=kinds,
        decoder_block_types=kinds,
        encoder_block_out_channels=widths,
        decoder_block_out_channels=widths,
        encoder_layers_per_block=(1, 1, 1),
        decoder_layers_per_block=(1, 1, 1),
        encoder_qkv_multiscales=((), (), (5,)),
        decoder_qkv_multiscales=((), (), (5,)),
        scaling_factor=0.41407,
    )


def build(seed: int = 0, layers: int = 1) -> SanaPipeline:
    """32x32 images, 4x8x8 latents."""
    with seeded(seed):
        tokenizer = byte_tokenizer()
        words = Gemma2Config(
            vocab_size=len(tokenizer),
            hidden_size=TEXT_WIDTH,
            intermediate_size=TEXT_WIDTH,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=8,
            max_position_embeddings=64,
            attn_implementation="eager",
            pad_token_id=tokenizer.pad_token_id,
            initializer_range=0.2,
        )
        transformer = SanaTransformer2DModel(
            in_channels=4,
            out_channels=4,
            num_attention_heads=2,
            attention_head_dim=8,
            num_layers=layers,
            num_cross_attention_heads=2,
            cross_attention_head_dim=8,
            cross_attention_dim=16,
            caption_channels=TEXT_WIDTH,
            sample_size=8,
            patch_size=1,
        )
        return ready(
            SanaPipeline(
                tokenizer=tokenizer,
                text_encoder=Gemma2Model(words),
                vae=autoencoder(),
                transformer=randomize(transformer),
                scheduler=DPMSolverMultistepScheduler(
                    prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
                ),
            )
        )
