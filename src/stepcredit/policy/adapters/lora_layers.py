"""Layers of a denoiser that must not get a LoRA."""

from __future__ import annotations

from torch import nn

_UNUSED_TEXT_LAYERS = ("attn.add_q_proj", "attn.to_add_out", "ff_context", "txt_mlp")


def lora_excluded(denoiser: nn.Module) -> list[str]:
    """Full names of modules that LoRA targets may match but that must not get a LoRA.

    - Layers without influence on the output. If joint blocks come last, nothing reads the text stream of the final one:
      its queries, output projection and MLP receive no gradient, its keys and values do.
    - Module lists named like layers. FLUX.2 has both `attn.to_out.0` and `attn.to_out`.

    Args:
        denoiser: a transformer or UNet without adapters.
    """
    return [*_unused_text_layers(denoiser), *_lists_named_like_layers(denoiser)]


def _unused_text_layers(denoiser: nn.Module) -> list[str]:
    blocks = getattr(denoiser, "transformer_blocks", None)
    if not blocks or getattr(denoiser, "single_transformer_blocks", None):
        return []
    last = f"transformer_blocks.{len(blocks) - 1}."
    joint = getattr(getattr(blocks[-1], "attn", None), "add_q_proj", None) is not None
    unused = tuple(last + part for part in _UNUSED_TEXT_LAYERS) if joint else ()
    return [name for name, part in denoiser.named_modules() if isinstance(part, nn.Linear) and name.startswith(unused)]


def _lists_named_like_layers(denoiser: nn.Module) -> list[str]:
    named = [(name, name.rpartition(".")[2], part) for name, part in denoiser.named_modules()]
    layers = {ending for _, ending, part in named if isinstance(part, nn.Linear)}
    return [name for name, ending, part in named if isinstance(part, nn.ModuleList) and ending in layers]
