"""Measure one rollout and one update of Stable Diffusion 1.5, SDXL and SD 3.5 medium with random weights.

    python benchmarks/real_size.py [--only sd15 sdxl sd35m] [--size PIXELS] [--images N] [--steps T] [--dtype NAME]

Denoisers and autoencoders have the published sizes. Text encoders have the published widths but only one layer, which
does not change the denoiser's work. Defaults on a CPU: 64 pixels, 2 images, 2 steps. Defaults on a CUDA device: 512
pixels, 8 images, 10 steps, bfloat16. Each model runs in a separate process. Prints seconds, samples per second, peak
memory and the deviation of the first ratio from 1.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import platform
from collections.abc import Callable
from typing import Any

import torch
from _throughput import configuration, rollout, square, timed, update
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from stepcredit.policy.loading import make_policy
from stepcredit.shapes.tokenizer import build_tokenizer
from stepcredit.utils.logging import quiet_libraries
from stepcredit.utils.memory import peak_memory_bytes


def tokenizer() -> CLIPTokenizer:
    built = build_tokenizer()
    built.model_max_length = 77
    return built


def text_encoder(width: int, kind: type = CLIPTextModel) -> Any:
    vocabulary = len(build_tokenizer())
    return kind(
        CLIPTextConfig(
            vocab_size=vocabulary,
            hidden_size=width,
            intermediate_size=4 * width,
            num_hidden_layers=1,
            num_attention_heads=width // 64,
            projection_dim=width,
            bos_token_id=vocabulary - 2,
            eos_token_id=vocabulary - 1,
            pad_token_id=vocabulary - 1,
        )
    )


def autoencoder(channels: int = 4, **options: Any) -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(128, 256, 512, 512),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        latent_channels=channels,
        **options,
    )


def schedule() -> DDIMScheduler:
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def sd15() -> DiffusionPipeline:
    """860M weights."""
    unet = UNet2DConditionModel(
        sample_size=64, block_out_channels=(320, 640, 1280, 1280), cross_attention_dim=768, attention_head_dim=8
    )
    return StableDiffusionPipeline(
        vae=autoencoder(),
        text_encoder=text_encoder(768),
        tokenizer=tokenizer(),
        unet=unet,
        scheduler=schedule(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def sdxl() -> DiffusionPipeline:
    """2.57B weights."""
    unet = UNet2DConditionModel(
        sample_size=128,
        block_out_channels=(320, 640, 1280),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2, 10),
        attention_head_dim=(5, 10, 20),
        cross_attention_dim=2048,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=2816,
    )
    return StableDiffusionXLPipeline(
        vae=autoencoder(),
        text_encoder=text_encoder(768),
        text_encoder_2=text_encoder(1280, CLIPTextModelWithProjection),
        tokenizer=tokenizer(),
        tokenizer_2=tokenizer(),
        unet=unet,
        scheduler=schedule(),
    )


def sd35m() -> DiffusionPipeline:
    """SD 3.5 medium: 24 joint blocks of width 1536, the first 13 with a second attention. 2.2B weights."""
    transformer = SD3Transformer2DModel(
        sample_size=128,
        patch_size=2,
        in_channels=16,
        out_channels=16,
        num_layers=24,
        attention_head_dim=64,
        num_attention_heads=24,
        joint_attention_dim=4096,
        caption_projection_dim=1536,
        pooled_projection_dim=2048,
        pos_embed_max_size=384,
        dual_attention_layers=tuple(range(13)),
        qk_norm="rms_norm",
    )
    vae = autoencoder(16, scaling_factor=1.5305, shift_factor=0.0609, use_quant_conv=False, use_post_quant_conv=False)
    return StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=vae,
        text_encoder=text_encoder(768, CLIPTextModelWithProjection),
        tokenizer=tokenizer(),
        text_encoder_2=text_encoder(1280, CLIPTextModelWithProjection),
        tokenizer_2=tokenizer(),
        text_encoder_3=None,
        tokenizer_3=None,
    )


MODELS: dict[str, Callable[[], DiffusionPipeline]] = {"sd15": sd15, "sdxl": sdxl, "sd35m": sd35m}


def build(name: str, dtype: str, device: torch.device) -> DiffusionPipeline:
    """Build one of MODELS on a device."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(getattr(torch, dtype))
    try:
        with device:
            pipeline = MODELS[name]()
    finally:
        torch.set_default_dtype(default)
    return pipeline.to(device)


def measure(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Measure one rollout and one update of a model."""
    torch.manual_seed(0)
    quiet_libraries()
    device = torch.device(options.device)
    config = configuration(
        options.images,
        options.steps,
        square(options.size),
        options.microbatch,
        dtype=options.dtype,
        gradient_checkpointing=options.checkpointing,
    )
    policy = make_policy(build(name, options.dtype, device), config)
    figures: dict[str, Any] = {
        "weights": sum(weight.numel() for weight in policy.pipeline.components[policy.denoiser].parameters())
    }
    if device.type == "cuda":  # warm up: kernels are selected and cached
        rollout(policy, config)
    trajectory, sampling = timed(device, lambda: rollout(policy, config))
    result, training = timed(device, lambda: update(policy, config, trajectory))
    return figures | {
        "seconds_sampling": round(sampling.wall, 2),
        "seconds_training": round(training.wall, 2),
        "samples_per_second": round(options.images / (sampling.wall + training.wall), 4),
        "ratio_max_deviation": result["ratio_max_deviation"],
        "grad_norm": result["grad_norm"],
        "peak_memory_gb": round(peak_memory_bytes() / 1e9, 2),
    }


def main() -> None:
    cuda = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--device", default="cuda" if cuda else "cpu")
    parser.add_argument("--size", type=int, default=512 if cuda else 64)
    parser.add_argument("--images", type=int, default=8 if cuda else 2)
    parser.add_argument("--microbatch", type=int, default=None)
    parser.add_argument("--steps", type=int, default=10 if cuda else 2)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="bfloat16" if cuda else "float32")
    parser.add_argument("--checkpointing", action="store_true", help="gradient checkpointing")
    options = parser.parse_args()
    machine = torch.cuda.get_device_name() if cuda else f"{platform.machine()}, {torch.get_num_threads()} threads"
    print(f"{machine}, torch {torch.__version__}, {options.dtype}, {options.size} px")
    print(f"{options.images} images x {options.steps} steps, guidance 5, LoRA of rank 4, one update")
    for name in options.only:
        with multiprocessing.get_context("spawn").Pool(1) as pool:  # a new process per model, for its own peak memory
            print(f"{name:<6} {json.dumps(pool.apply(measure, (name, options)))}", flush=True)


if __name__ == "__main__":
    main()
