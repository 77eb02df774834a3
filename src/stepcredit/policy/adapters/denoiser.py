"""The part of a pipeline that is trained, and how it computes."""

from __future__ import annotations

from typing import Any

from diffusers import DiffusionPipeline

from stepcredit.config import ModelSection
from stepcredit.errors import InputError


def denoiser_name(pipeline: DiffusionPipeline) -> str:
    """`transformer` or `unet`, whichever the pipeline has."""
    for name in ("transformer", "unet"):
        if getattr(pipeline, name, None) is not None:
            return name
    raise InputError(f"{type(pipeline).__name__} has neither a unet nor a transformer to train")


def configure(denoiser: Any, section: ModelSection) -> None:
    """Gradient checkpointing and compilation, both in place, where `section` asks for them.

    Compiles each of the repeated blocks where the model names them, which takes a fraction of the time, else the whole.
    """
    kind = type(denoiser).__name__
    if section.gradient_checkpointing:
        if not getattr(denoiser, "_supports_gradient_checkpointing", False):
            raise InputError(f"{kind} cannot recompute activations: set model.gradient_checkpointing=false")
        denoiser.enable_gradient_checkpointing()
    if section.compile:
        blocks = getattr(denoiser, "_repeated_blocks", None) or ()
        if any(type(part).__name__ in blocks for part in denoiser.modules()):
            denoiser.compile_repeated_blocks()
        else:
            denoiser.compile()
