"""The part of a pipeline that is trained, and how it computes."""

from __future__ import annotations

from typing import Any

from diffusers import DiffusionPipeline
from torch import nn

from stepcredit.config import ModelSection
from stepcredit.errors import InputError


def denoiser_name(pipeline: DiffusionPipeline) -> str:
    """`transformer` or `unet`, whichever the pipeline has."""
    for name in ("transformer", "unet"):
        if getattr(pipeline, name, None) is not None:
            return name
    raise InputError(f"{type(pipeline).__name__} has neither a unet nor a transformer to train")


def repeated_blocks(denoiser: Any) -> list[nn.Module]:
    """Its parts of the kinds that the model names as repeated, outer ones first; none where it names none."""
    names = getattr(denoiser, "_repeated_blocks", None) or ()
    return [part for part in denoiser.modules() if type(part).__name__ in names]


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
        if repeated_blocks(denoiser):
            denoiser.compile_repeated_blocks()
        else:
            denoiser.compile()
