"""Components of the tiny Stable Diffusion 3: a rectified-flow transformer over 16 patches of the 4x8x8 latents."""

from __future__ import annotations

import copy

from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from torch import nn
from transformers import CLIPTextModelWithProjection, CLIPTokenizer

from stepcredit.shapes.build.networks import TEXT_WIDTH, text_config

WIDTH = 128
HEAD_WIDTH = 32
LAYERS = 5


def build_transformer() -> SD3Transformer2DModel:
    """Joint attention of 4x4 patches and FLOW_MAX_LENGTH + TEXT_PADDING text vectors.

    The modulations and the output layer start at zero, so every block starts as the identity (adaLN-Zero, DiT,
    arXiv 2212.09748, section 3.2).
    """
    transformer = SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=LAYERS,
        attention_head_dim=HEAD_WIDTH,
        num_attention_heads=WIDTH // HEAD_WIDTH,
        joint_attention_dim=2 * TEXT_WIDTH,
        caption_projection_dim=WIDTH,
        pooled_projection_dim=2 * TEXT_WIDTH,
        pos_embed_max_size=4,
        qk_norm="rms_norm",
    )
    for name, layer in transformer.named_modules():
        if isinstance(layer, nn.Linear):
            zero = "norm" in name or name == "proj_out"
            nn.init.zeros_(layer.weight) if zero else nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
    return transformer


def build_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModelWithProjection:
    """The text encoder of the DDIM pipeline with a projection of the end token."""
    return CLIPTextModelWithProjection(text_config(tokenizer))


def build_scheduler() -> FlowMatchEulerDiscreteScheduler:
    """Rectified flow over 1000 steps without a time shift."""
    return FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=1.0)


def assemble(
    vae: AutoencoderKL,
    transformer: SD3Transformer2DModel,
    text_encoder: CLIPTextModelWithProjection,
    text_encoder_2: CLIPTextModelWithProjection,
    tokenizer: CLIPTokenizer,
) -> StableDiffusion3Pipeline:
    """A StableDiffusion3Pipeline of the given components and a copy of the autoencoder, without a T5 encoder.

    The copy's config gets shift_factor 0, because this pipeline adds the shift to latents before decoding.
    """
    unshifted = copy.deepcopy(vae)
    unshifted.register_to_config(shift_factor=0.0)
    return StableDiffusion3Pipeline(
        transformer=transformer.eval(),
        scheduler=build_scheduler(),
        vae=unshifted.eval(),
        text_encoder=text_encoder.eval(),
        tokenizer=tokenizer,
        text_encoder_2=text_encoder_2.eval(),
        tokenizer_2=tokenizer,
        text_encoder_3=None,
        tokenizer_3=None,
    )
