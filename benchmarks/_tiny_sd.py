"""Build a tiny Stable Diffusion with random weights, and save it for older diffusers and transformers, too."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPTextConfig, CLIPTextModel

from stepcredit.policy.export import transformers4
from stepcredit.shapes.tokenizer import build_tokenizer

LATENT, TOKENS, TEXT_WIDTH = 8, 77, 32


def unet() -> UNet2DConditionModel:
    """A UNet of 1.8M weights."""
    return UNet2DConditionModel(
        sample_size=LATENT,
        block_out_channels=(48, 96),
        layers_per_block=1,
        norm_num_groups=16,
        cross_attention_dim=TEXT_WIDTH,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )


def build() -> StableDiffusionPipeline:
    """A pipeline with 8x8 latents, 32x32 images and 77 tokens."""
    tokenizer = build_tokenizer()
    tokenizer.model_max_length = TOKENS
    vocabulary = len(tokenizer)
    text = CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=TEXT_WIDTH,
        intermediate_size=4 * TEXT_WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        bos_token_id=vocabulary - 2,
        eos_token_id=vocabulary - 1,
        pad_token_id=vocabulary - 1,
    )
    return StableDiffusionPipeline(
        vae=AutoencoderKL(
            block_out_channels=(16, 32, 32),
            down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3,
            norm_num_groups=16,
            sample_size=4 * LATENT,
        ),
        text_encoder=CLIPTextModel(text),
        tokenizer=tokenizer,
        unet=unet(),
        scheduler=DDIMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            clip_sample=False,
            set_alpha_to_one=False,
            steps_offset=1,
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def save(folder: Path) -> None:
    """Save `build` with seed 0, in files that transformers 4 can read too."""
    torch.manual_seed(0)
    build().save_pretrained(folder)
    transformers4.make_readable(folder)


def count_gflop(denoiser: UNet2DConditionModel, rows: int = 2) -> tuple[float, float]:
    """GFLOP of one row for (forward, forward and backward). A multiply-add counts as two operations."""
    inputs = torch.zeros(rows, 4, LATENT, LATENT), 1, torch.zeros(rows, TOKENS, TEXT_WIDTH)
    with FlopCounterMode(display=False) as forward, torch.no_grad():
        denoiser(*inputs)
    with FlopCounterMode(display=False) as both:
        denoiser(*inputs).sample.sum().backward()
    return forward.get_total_flops() / rows / 1e9, both.get_total_flops() / rows / 1e9
