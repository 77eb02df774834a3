"""Parts of several tiny pipelines: seeding, a byte tokenizer with a chat template, a Qwen3, an AutoencoderKL."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from diffusers import AutoencoderKL, DiffusionPipeline
from tests.tiny import TEXT_WIDTH, tiny_vae
from tokenizers import pre_tokenizers
from torch import nn
from transformers import Qwen2Tokenizer, Qwen3Config

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the global generator inside the context and restore its state afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def ready(pipeline: DiffusionPipeline) -> Any:
    """`pipeline` in eval mode, without progress bar."""
    for component in pipeline.components.values():
        if isinstance(component, nn.Module):
            component.eval()
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def byte_tokenizer(words: Sequence[str] = ()) -> Qwen2Tokenizer:
    """One token per byte or per one of `words`, Qwen's three special tokens and its chat template."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    vocabulary = {token: number for number, token in enumerate([*letters, *special])}
    tokenizer = Qwen2Tokenizer(vocab=vocabulary, merges=[], unk_token=special[0], pad_token=special[0])
    tokenizer.add_special_tokens({"additional_special_tokens": special[1:]})
    tokenizer.add_tokens(list(words))
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def qwen_text_config(tokenizer: Qwen2Tokenizer) -> dict[str, Any]:
    """The language model of a small Qwen that also reads images."""
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": TEXT_WIDTH,
        "intermediate_size": TEXT_WIDTH,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 512,
        "rope_scaling": {"rope_type": "default", "mrope_section": [1, 1, 2]},
        "pad_token_id": tokenizer.pad_token_id,
        "initializer_range": 0.2,
    }


def qwen3_config(tokenizer: Qwen2Tokenizer, layers: int) -> Qwen3Config:
    return Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=TEXT_WIDTH,
        intermediate_size=TEXT_WIDTH,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        max_position_embeddings=64,
        initializer_range=0.2,
    )


def flow_vae() -> AutoencoderKL:
    """The autoencoder of the flow models: shifted latents, no 1x1 convolutions around them."""
    return tiny_vae(shift_factor=0.06, scaling_factor=1.5, use_quant_conv=False, use_post_quant_conv=False)


def randomize(denoiser: nn.Module, gain: float = 1.0) -> nn.Module:
    """Redraw every matrix with std `gain` / sqrt(inputs), and every all-zero or unset vector.

    Stock initializations leave last layers zero and some parameters unset, and give prompts almost no influence.
    """
    with torch.no_grad():
        for parameter in denoiser.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=gain / parameter[0].numel() ** 0.5)
            elif not parameter.isfinite().all() or not parameter.any():
                parameter.normal_(std=0.1)
    return denoiser
