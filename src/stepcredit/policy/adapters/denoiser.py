"""The denoiser of a pipeline, its activation checkpointing and its compilation."""

from __future__ import annotations

from typing import Any

from diffusers import DiffusionPipeline
from torch import nn

from stepcredit.config import ModelSection
from stepcredit.errors import InputError


def denoiser_name(pipeline: DiffusionPipeline) -> str:
    """`transformer` or `unet`, whichever the pipeline has; InputError if it has neither."""
    for name in ("transformer", "unet"):
        if getattr(pipeline, name, None) is not None:
            return name
    raise InputError(f"{type(pipeline).__name__} has neither a unet nor a transformer to train")


def repeated_blocks(denoiser: Any) -> list[nn.Module]:
    """The blocks that the model class lists in `_repeated_blocks`, outer ones first; empty if it lists none."""
    names = getattr(denoiser, "_repeated_blocks", None) or ()
    return [part for part in denoiser.modules() if type(part).__name__ in names]


def configure(denoiser: Any, section: ModelSection) -> None:
    """Enable gradient checkpointing and compilation in place, as `section` says.

    If the model lists repeated blocks, only these are compiled, which takes a fraction of the time.

    Raises:
        InputError: the model does not support gradient checkpointing.
    """
    kind = type(denoiser).__name__
    if section.gradient_checkpointing:
        if not getattr(denoiser, "_supports_gradient_checkpointing", False):
            raise InputError(f"{kind} does not support gradient checkpointing: set model.gradient_checkpointing=false")
        denoiser.enable_gradient_checkpointing()
    if section.compile:
        if repeated_blocks(denoiser):
            denoiser.compile_repeated_blocks()
        else:
            denoiser.compile()
