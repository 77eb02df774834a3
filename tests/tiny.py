"""Tiny random Stable Diffusion pipelines, built offline, and policies of them."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from tokenizers import pre_tokenizers
from torch import Tensor
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from stepcredit.algorithms.minibatch import Experience
from stepcredit.algorithms.step_sampling import SampledSteps
from stepcredit.config import ModelSection, SampleSection, TrainSection
from stepcredit.distributed.optimizer import PlainOptimizer
from stepcredit.distributed.partition import unpartitioned
from stepcredit.maths import gaussian
from stepcredit.policy.adapters import attach
from stepcredit.policy.pipeline import PipelinePolicy
from stepcredit.types import Policy, Prompt, Trajectory

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


def tiny_t5_tokenizer() -> T5Tokenizer:
    """One token per lower-case letter."""
    letters = [(letter, -3.0) for letter in "abcdefghijklmnopqrstuvwxyz"]
    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0), *letters]
    return T5Tokenizer(vocab=vocabulary, extra_ids=0, model_max_length=12)


def tiny_t5(width: int = TEXT_WIDTH) -> T5EncoderModel:
    return T5EncoderModel(T5Config(vocab_size=64, d_model=width, d_kv=8, d_ff=16, num_layers=1, num_heads=2))


def tiny_vae(**options: Any) -> AutoencoderKL:
    stock = {
        "block_out_channels": (4, 8),
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
        "latent_channels": 4,
        "norm_num_groups": 1,
        "mid_block_add_attention": False,
    }
    return AutoencoderKL(**{**stock, **options})


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


def tiny_sdxl(seed: int = 0) -> StableDiffusionXLPipeline:
    """As `tiny_sd`, with two text encoders, pooled embeddings and an Euler scheduler, as SDXL comes."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tokenizer = tiny_tokenizer()
        unet = tiny_unet(
            cross_attention_dim=2 * TEXT_WIDTH,
            attention_head_dim=(2, 4),
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=6 * 8 + TEXT_WIDTH,
        )
        pipeline = StableDiffusionXLPipeline(
            vae=tiny_vae().eval(),
            text_encoder=tiny_text_encoder(tokenizer).eval(),
            text_encoder_2=tiny_text_encoder(tokenizer, CLIPTextModelWithProjection).eval(),
            tokenizer=tokenizer,
            tokenizer_2=tiny_tokenizer(),
            unet=unet.eval(),
            scheduler=EulerDiscreteScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"),
        )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def tiny_pixart(seed: int = 0) -> PixArtSigmaPipeline:
    """A transformer with learned variance behind a T5 encoder and its attention mask, and a DPM-Solver scheduler."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        transformer = PixArtTransformer2DModel(
            sample_size=8,
            num_layers=1,
            patch_size=2,
            attention_head_dim=4,
            num_attention_heads=2,
            in_channels=4,
            out_channels=8,
            caption_channels=TEXT_WIDTH,
            cross_attention_dim=8,
            use_additional_conditions=False,
        )
        torch.nn.init.normal_(transformer.proj_out.weight, std=0.2)
        pipeline = PixArtSigmaPipeline(
            tokenizer=tiny_t5_tokenizer(),
            text_encoder=tiny_t5().eval(),
            vae=tiny_vae().eval(),
            transformer=transformer.eval(),
            scheduler=DPMSolverMultistepScheduler(),
        )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def tiny_policy(
    pipeline: Any = None, seed: int = 0, call: dict[str, Any] | None = None, **options: Any
) -> PipelinePolicy:
    """A policy of `pipeline` (a fresh `tiny_sd`); the keywords are fields of SampleSection or ModelSection."""
    pipeline = tiny_sd() if pipeline is None else pipeline
    sample = {name: options.pop(name) for name in list(options) if name in SampleSection.model_fields}
    section = SampleSection(**{"steps": 4, "guidance": 5.0, "call": call or {}, **sample})
    return PipelinePolicy(pipeline, attach(pipeline, ModelSection(**options), seed), section)


def log_prob(policy: Policy, trajectory: Trajectory, step: int, rows: Tensor | None = None) -> Tensor:
    """(B,) or (len(rows),): the log-probability of a recorded step under the policy as it is now."""
    transition = policy.replay(trajectory, step, rows)
    following = trajectory.latents[:, step + 1]
    return gaussian.step_log_prob(transition, following if rows is None else following[rows])


def perturb(policy: Policy, scale: float = 0.1, seed: int = 0) -> None:
    """Add normal noise to every trained weight."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator).to(parameter), alpha=scale)


def descending(policy: Policy, section: TrainSection) -> PlainOptimizer:
    """Plain gradient optimizer at the rate of `section`."""
    optimizer = torch.optim.SGD(policy.parameters(), lr=section.learning_rate)
    return PlainOptimizer(policy, optimizer, torch.amp.GradScaler(enabled=False), section.max_grad_norm)


def experienced(trajectory: Trajectory, advantages: Tensor, draw: SampledSteps | None = None) -> Experience:
    """An epoch's experience where there is one process."""
    return Experience(trajectory, advantages, unpartitioned(len(trajectory)), draw)
