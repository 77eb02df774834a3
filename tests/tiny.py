"""Tiny random Stable Diffusion pipelines, built offline, and policies of them."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from tokenizers import pre_tokenizers
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from stepcredit.config import ModelSection, SampleSection
from stepcredit.policy.adapters import attach
from stepcredit.policy.pipeline import PipelinePolicy
from stepcredit.types import Policy, Prompt

TEXT_WIDTH = 16
PROMPTS = [Prompt(text, {"number": number}) for number, text in enumerate(["a cat", "two dogs", "a red fox", "sea"])]
SEEDS = [11, 22, 33, 44]


def tiny_scheduler(**options: Any) -> DDIMScheduler:
    """Stable Diffusion's schedule."""
    stock = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "clip_sample": False}
    return DDIMScheduler(**{**stock, "set_alpha_to_one": False, "steps_offset": 1, **options})


def tiny_tokenizer() -> CLIPTokenizer:
    """One token per byte."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*alphabet, *(letter + "</w>" for letter in alphabet), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={token: number for number, token in enumerate(tokens)}, merges=[], model_max_length=12)


def tiny_text_encoder(tokenizer: CLIPTokenizer, kind: type = CLIPTextModel) -> Any:
    return kind(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=TEXT_WIDTH,
            intermediate_size=TEXT_WIDTH,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=tokenizer.model_max_length,
            projection_dim=TEXT_WIDTH,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def tiny_vae() -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(4, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=4,
        mid_block_add_attention=False,
    )


def tiny_unet(**options: Any) -> UNet2DConditionModel:
    stock = {
        "sample_size": 8,
        "block_out_channels": (8, 16),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "layers_per_block": 1,
        "cross_attention_dim": TEXT_WIDTH,
        "attention_head_dim": 4,
        "norm_num_groups": 4,
    }
    return UNet2DConditionModel(**{**stock, **options})


def tiny_sd(seed: int = 0, **scheduler: Any) -> StableDiffusionPipeline:
    """16x16 images, 4x8x8 latents; the keywords change the scheduler."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tokenizer = tiny_tokenizer()
        pipeline = StableDiffusionPipeline(
            vae=tiny_vae().eval(),
            text_encoder=tiny_text_encoder(tokenizer).eval(),
            tokenizer=tokenizer,
            unet=tiny_unet().eval(),
            scheduler=tiny_scheduler(**scheduler),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def tiny_policy(
    pipeline: Any = None,
    *,
    steps: int = 4,
    guidance: float = 5.0,
    batch: int | None = None,
    seed: int = 0,
    **model: Any,
) -> PipelinePolicy:
    """A policy of `pipeline` (a fresh `tiny_sd`); the keywords of `model` are those of ModelSection."""
    pipeline = tiny_sd() if pipeline is None else pipeline
    adapter = attach(pipeline, ModelSection(**model), seed)
    return PipelinePolicy(pipeline, adapter, SampleSection(steps=steps, guidance=guidance, batch=batch))


def perturb(policy: Policy, scale: float = 0.1, seed: int = 0) -> None:
    """Add normal noise to every trained weight."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter += scale * torch.randn(parameter.shape, generator=generator).to(parameter)
