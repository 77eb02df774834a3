"""The trained weights of the denoiser: a LoRA or all weights, optionally with an exponential moving average."""

from __future__ import annotations

from diffusers import DiffusionPipeline
from torch import distributed, nn

from stepcredit.config import ModelSection
from stepcredit.families import family_of
from stepcredit.policy.adapters.denoiser import configure, denoiser_name
from stepcredit.policy.adapters.ema import AveragedAdapter
from stepcredit.policy.adapters.frozen import FrozenAdapter
from stepcredit.policy.adapters.fsdp import shard
from stepcredit.policy.adapters.full import FullAdapter
from stepcredit.policy.adapters.lora import LoraAdapter, has_lora_loader
from stepcredit.policy.adapters.lora_layers import lora_excluded
from stepcredit.policy.adapters.peft_lora import PeftLoraAdapter
from stepcredit.policy.adapters.protocol import Adapter
from stepcredit.policy.adapters.weights import AdapterWeights

__all__ = [
    "Adapter",
    "AdapterWeights",
    "AveragedAdapter",
    "FullAdapter",
    "LoraAdapter",
    "PeftLoraAdapter",
    "attach",
    "denoiser_name",
    "freeze",
    "has_lora_loader",
]


def attach(pipeline: DiffusionPipeline, section: ModelSection, seed: int) -> Adapter:
    """Freeze the pipeline and prepare the weights that `section.adapter` names for training.

    Raises:
        InputError: the pipeline does not support a setting of `section`.
    """
    _freeze_components(pipeline)
    adapter: Adapter = FullAdapter(pipeline) if section.adapter == "full" else _lora(pipeline, section, seed)
    configure(getattr(pipeline, denoiser_name(pipeline)), section)
    if section.shard and distributed.is_initialized():  # commands such as `sample` load a sharded run in one process
        shard(getattr(pipeline, denoiser_name(pipeline)))
    return adapter if section.ema is None else AveragedAdapter(adapter, section.ema)


def freeze(pipeline: DiffusionPipeline, section: ModelSection) -> Adapter:
    """As `attach`, without anything to train."""
    _freeze_components(pipeline)
    configure(getattr(pipeline, denoiser_name(pipeline)), section)
    return FrozenAdapter()


def _freeze_components(pipeline: DiffusionPipeline) -> None:
    for component in pipeline.components.values():
        if isinstance(component, nn.Module):
            component.requires_grad_(False).eval()


def _lora(pipeline: DiffusionPipeline, section: ModelSection, seed: int) -> LoraAdapter:
    targets = section.lora_targets or family_of(pipeline).lora_targets
    excluded = lora_excluded(getattr(pipeline, denoiser_name(pipeline)))
    kind = LoraAdapter if has_lora_loader(pipeline) else PeftLoraAdapter
    return kind(pipeline, section.lora_rank, section.lora_alpha, targets, seed, excluded)
