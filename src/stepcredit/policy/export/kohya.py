"""LoRA files with the names of kohya's sd-scripts, which ComfyUI, A1111 and diffusers read.

A layer's `lora_A` and `lora_B` become `<name>.lora_down.weight` and `<name>.lora_up.weight`. `<name>.alpha` scales
their product by alpha / rank. For Stable Diffusion 1.x and 2.x, <name> is the path in diffusers' UNet. For SDXL it is
the path in the original UNet, whose blocks are numbered consecutively.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline, StableDiffusionXLPipeline
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file
from torch import Tensor

from stepcredit.errors import InputError

WEIGHTS = "kohya_lora.safetensors"
_LAYER = re.compile(r"(down_blocks|mid_block|up_blocks)(?:\.(\d+))?\.attentions\.(\d+)\.(.+)")
_SD2_TEXT_WIDTH = 1024


def write(pipeline: DiffusionPipeline, folder: Path) -> Path:
    """Write the LoRA of the pipeline's UNet as `kohya_lora.safetensors` into `folder`; returns the file.

    Raises:
        InputError: the format is not defined for the pipeline's class, the pipeline has no LoRA, or its LoRA has layers
            outside the attention blocks, which some programs ignore.
    """
    if not isinstance(pipeline, StableDiffusionPipeline | StableDiffusionXLPipeline):
        raise InputError(
            f"kohya's format is for Stable Diffusion 1.x, 2.x and SDXL, not {type(pipeline).__name__}; "
            "use --format lora or merged"
        )
    unet: Any = pipeline.unet
    if not getattr(unet, "peft_config", None):
        raise InputError("kohya's format is for LoRAs, but all weights were trained; use --format lora or merged")
    xl = isinstance(pipeline, StableDiffusionXLPipeline)
    config = unet.peft_config["default"]
    tensors = _tensors(get_peft_model_state_dict(unet), float(config.lora_alpha), unet.config if xl else None)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / WEIGHTS, _metadata(pipeline, xl, config.r, config.lora_alpha))
    return folder / WEIGHTS


def layer_name(path: str, layers_per_block: int | None) -> str:
    """A layer's name in the file, from its path in diffusers' UNet.

    Args:
        layers_per_block: of an SDXL UNet, for the consecutive numbers; None keeps diffusers' path.

    >>> layer_name("down_blocks.1.attentions.0.proj_in", None)
    'lora_unet_down_blocks_1_attentions_0_proj_in'
    >>> layer_name("down_blocks.1.attentions.0.proj_in", 2)
    'lora_unet_input_blocks_4_1_proj_in'
    """
    match = _LAYER.fullmatch(path)
    if match is None:
        raise InputError(
            f"kohya's format has names for layers of attention blocks only, not for {path}; use --format lora or merged"
        )
    if layers_per_block is not None:
        side, block, number, rest = match.groups()
        path = f"{_original_block(side, int(block or 0), int(number), layers_per_block)}.1.{rest}"
    return "lora_unet_" + path.replace(".", "_")


def _original_block(side: str, block: int, number: int, layers: int) -> str:
    """A down block is `layers` input blocks and a downsampler, after one for conv_in. An up block is `layers` + 1."""
    match side:
        case "down_blocks":
            return f"input_blocks.{1 + block * (layers + 1) + number}"
        case "up_blocks":
            return f"output_blocks.{block * (layers + 1) + number}"
    return "middle_block"


def _tensors(matrices: dict[str, Tensor], alpha: float, xl_config: Any) -> dict[str, Tensor]:
    layers = None if xl_config is None else int(xl_config.layers_per_block)
    tensors = {}
    for key, value in matrices.items():
        path, matrix, _ = key.rsplit(".", 2)
        name = layer_name(path, layers)
        kind = {"lora_A": "lora_down", "lora_B": "lora_up"}[matrix]
        tensors[f"{name}.{kind}.weight"] = value.detach().contiguous().cpu()
        tensors[f"{name}.alpha"] = torch.tensor(alpha)
    return tensors


def _metadata(pipeline: Any, xl: bool, rank: int, alpha: float) -> dict[str, str]:
    """What programs display and sort by."""
    second = not xl and pipeline.unet.config.cross_attention_dim == _SD2_TEXT_WIDTH
    return {
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(rank),
        "ss_network_alpha": str(float(alpha)),
        "ss_base_model_version": "sdxl_base_v1-0" if xl else "sd_v2" if second else "sd_v1",
        "ss_v2": str(second),
    }
