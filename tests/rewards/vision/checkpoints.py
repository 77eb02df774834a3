"""Writes checkpoints as they are published, with random weights, of any width and without a download."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import pre_tokenizers
from torch import Tensor
from transformers import BertTokenizer, CLIPConfig, CLIPModel, CLIPTokenizer
from transformers.utils import logging

LOGIT_SCALE = 4.6052


@dataclass(frozen=True)
class ClipShape:
    """Sizes of a CLIP model, images and texts; `heads` and `text_heads` are numbers of attention heads."""

    width: int = 32
    layers: int = 2
    heads: int = 4
    text_width: int = 24
    text_layers: int = 2
    text_heads: int = 3
    embedding: int = 16
    image_size: int = 28
    patch: int = 14
    activation: str = "quick_gelu"


@dataclass(frozen=True)
class BlipShape:
    """Sizes of ImageReward's BLIP; attention heads are 64 wide."""

    width: int = 128
    layers: int = 2
    text_width: int = 64
    text_layers: int = 2
    vocabulary: int = 120
    positions: int = 40
    image_size: int = 32
    patch: int = 16


@dataclass(frozen=True)
class OpenClipShape:
    """Sizes of open_clip's ViT-H-14; attention heads are 80 and 64 wide."""

    width: int = 160
    layers: int = 2
    text_width: int = 64
    text_layers: int = 2
    embedding: int = 32
    image_size: int = 28
    patch: int = 14


def write_clip(folder: Path, shape: ClipShape = ClipShape(), seed: int = 0) -> Path:
    """A CLIPModel with a tokenizer, one token per byte; the end is the last token, as in the published vocabulary."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = clip_tokenizer()
    tokenizer.save_pretrained(folder)
    text = {
        "vocab_size": 49408,
        "hidden_size": shape.text_width,
        "intermediate_size": 4 * shape.text_width,
        "num_hidden_layers": shape.text_layers,
        "num_attention_heads": shape.text_heads,
        "projection_dim": shape.embedding,
        "hidden_act": shape.activation,
        # As published: the old number, for which transformers looks for the largest token.
        "eos_token_id": 2,
        "bos_token_id": 0,
        "pad_token_id": 1,
    }
    vision = {
        "hidden_size": shape.width,
        "intermediate_size": 4 * shape.width,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "projection_dim": shape.embedding,
        "image_size": shape.image_size,
        "patch_size": shape.patch,
        "hidden_act": shape.activation,
    }
    logging.disable_progress_bar()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=shape.embedding)
        config.logit_scale_init_value = LOGIT_SCALE
        model = CLIPModel(config)
        model.save_pretrained(folder)
    return folder


def clip_tokenizer() -> CLIPTokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = {token: number for number, token in enumerate([*alphabet, *(letter + "</w>" for letter in alphabet)])}
    vocabulary = {**tokens, "<|startoftext|>": 49406, "<|endoftext|>": 49407}
    return CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=77)


def write_predictor(file: Path, width: int = 16, seed: int = 1) -> dict[str, Tensor]:
    """The five layers under their published names; returns them."""
    tensors = random_tensors(predictor_names(width), seed)
    torch.save(tensors, file)
    return tensors


def predictor_names(width: int, prefix: str = "") -> dict[str, tuple[int, ...]]:
    sizes = {"0": (1024, width), "2": (128, 1024), "4": (64, 128), "6": (16, 64), "7": (1, 16)}
    weights = {f"{prefix}layers.{name}.weight": size for name, size in sizes.items()}
    return {**weights, **{f"{prefix}layers.{name}.bias": size[:1] for name, size in sizes.items()}}


def write_imagereward(folder: Path, shape: BlipShape = BlipShape(), seed: int = 2) -> dict[str, Tensor]:
    """ImageReward.pt and a tokenizer of letters; returns the tensors, under their published names."""
    folder.mkdir(parents=True, exist_ok=True)
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters)]
    BertTokenizer(vocab={word: number for number, word in enumerate(words)}).save_pretrained(folder)
    tensors = random_tensors(imagereward_names(shape), seed)
    tensors["blip.text_encoder.embeddings.position_ids"] = torch.arange(shape.positions)[None]
    torch.save(tensors, folder / "ImageReward.pt")
    return tensors


def imagereward_names(shape: BlipShape) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors of ImageReward.pt, by name, as the released code saves them."""
    wide, text = shape.width, shape.text_width
    patches = (shape.image_size // shape.patch) ** 2
    vision: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, wide),
        "pos_embed": (1, patches + 1, wide),
        "patch_embed.proj.weight": (wide, 3, shape.patch, shape.patch),
        "patch_embed.proj.bias": (wide,),
        **_layer_norm("norm", wide),
    }
    for number in range(shape.layers):
        block = f"blocks.{number}"
        vision |= _layer_norm(f"{block}.norm1", wide) | _layer_norm(f"{block}.norm2", wide)
        vision |= _linear(f"{block}.attn.qkv", wide, 3 * wide) | _linear(f"{block}.attn.proj", wide, wide)
        vision |= _linear(f"{block}.mlp.fc1", wide, 4 * wide) | _linear(f"{block}.mlp.fc2", 4 * wide, wide)
    words: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (shape.vocabulary, text),
        "embeddings.position_embeddings.weight": (shape.positions, text),
        **_layer_norm("embeddings.LayerNorm", text),
    }
    for number in range(shape.text_layers):
        layer = f"encoder.layer.{number}"
        for attention, keys in (("attention", text), ("crossattention", wide)):
            words |= _linear(f"{layer}.{attention}.self.query", text, text)
            words |= _linear(f"{layer}.{attention}.self.key", keys, text)
            words |= _linear(f"{layer}.{attention}.self.value", keys, text)
            words |= _linear(f"{layer}.{attention}.output.dense", text, text)
            words |= _layer_norm(f"{layer}.{attention}.output.LayerNorm", text)
        words |= _linear(f"{layer}.intermediate.dense", text, 4 * text)
        words |= _linear(f"{layer}.output.dense", 4 * text, text) | _layer_norm(f"{layer}.output.LayerNorm", text)
    return {
        **{f"blip.visual_encoder.{name}": size for name, size in vision.items()},
        **{f"blip.text_encoder.{name}": size for name, size in words.items()},
        **_linear("blip.vision_proj", wide, 256),
        **_linear("blip.text_proj", text, 256),
        **predictor_names(text, "mlp."),
    }


def write_hps(file: Path, shape: OpenClipShape = OpenClipShape(), seed: int = 3) -> dict[str, Tensor]:
    """A checkpoint as HPSv2's trainer writes it; returns its tensors."""
    tensors = random_tensors(open_clip_names(shape), seed)
    tensors["logit_scale"] = torch.tensor(4.6)
    torch.save({"epoch": 1, "name": "hps", "state_dict": tensors}, file)
    return tensors


def open_clip_names(shape: OpenClipShape) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors of an open_clip CLIP with a vision transformer, by name."""
    wide, text = shape.width, shape.text_width
    names: dict[str, tuple[int, ...]] = {
        "positional_embedding": (77, text),
        "text_projection": (text, shape.embedding),
        "token_embedding.weight": (49408, text),
        **_layer_norm("ln_final", text),
        "visual.class_embedding": (wide,),
        "visual.positional_embedding": ((shape.image_size // shape.patch) ** 2 + 1, wide),
        "visual.proj": (wide, shape.embedding),
        "visual.conv1.weight": (wide, 3, shape.patch, shape.patch),
        **_layer_norm("visual.ln_pre", wide),
        **_layer_norm("visual.ln_post", wide),
    }
    for prefix, width, layers in (("visual.", wide, shape.layers), ("", text, shape.text_layers)):
        for number in range(layers):
            block = f"{prefix}transformer.resblocks.{number}"
            names |= _layer_norm(f"{block}.ln_1", width) | _layer_norm(f"{block}.ln_2", width)
            names |= {f"{block}.attn.in_proj_weight": (3 * width, width), f"{block}.attn.in_proj_bias": (3 * width,)}
            names |= _linear(f"{block}.attn.out_proj", width, width)
            names |= _linear(f"{block}.mlp.c_fc", width, 4 * width) | _linear(f"{block}.mlp.c_proj", 4 * width, width)
    return names


def random_tensors(shapes: Mapping[str, tuple[int, ...]], seed: int) -> dict[str, Tensor]:
    """Normal weights that keep the scale of what flows through them; those of norms (one dimension) are near 1."""
    generator = torch.Generator().manual_seed(seed)
    return {name: _random(name, shape, generator) for name, shape in shapes.items()}


def _random(name: str, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    noise = torch.randn(shape, generator=generator)
    if len(shape) == 1:
        return 0.1 * noise + (1 if name.endswith("weight") else 0)
    embedding = "embed" in name or "token" in name
    fan_in = 1 if embedding and "proj" not in name else noise[0].numel()
    return noise / fan_in**0.5


def _linear(name: str, before: int, after: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (after, before), f"{name}.bias": (after,)}


def _layer_norm(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def options_of(name: str, folder: Path) -> dict[str, Any]:
    """Options that make the reward called `name` load the small checkpoint that is written into `folder`."""
    if name == "aesthetic":
        write_predictor(folder / "predictor.pth")
        return {"path": str(write_clip(folder / "clip")), "predictor": str(folder / "predictor.pth")}
    if name in ("pickscore", "clipscore"):
        return {"path": str(write_clip(folder / "clip"))}
    if name == "imagereward":
        write_imagereward(folder)
        return {"path": str(folder)}
    file = "HPS_v2_compressed.pt" if name == "hpsv2" else "HPS_v2.1_compressed.pt"
    write_hps(folder / file)
    return {"path": str(folder)}
