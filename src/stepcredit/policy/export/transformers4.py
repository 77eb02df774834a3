"""A saved pipeline that programs on transformers 4 read as well as those on transformers 5."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors.torch import load_file, save_file

_PREFIX = "text_model."


def readable(folder: Path) -> None:
    """Give CLIP text encoders and tokenizers in a pipeline's folder the files that transformers 4 looks for.

    transformers 5 leaves `text_model.` off the names of a CLIPTextModel's weights; version 4 would find none of them
    and draw random ones without a word. And it keeps a tokenizer in tokenizer.json alone, where version 4 wants
    vocab.json and merges.txt. Version 5 reads both forms of both.
    """
    for config in folder.glob("*/config.json"):
        if json.loads(config.read_text(encoding="utf-8")).get("architectures") == ["CLIPTextModel"]:
            _prefix(config.with_name("model.safetensors"))
    for settings in folder.glob("*/tokenizer_config.json"):
        if "CLIPTokenizer" in json.loads(settings.read_text(encoding="utf-8")).get("tokenizer_class", ""):
            _split(settings.with_name("tokenizer.json"))


def _prefix(weights: Path) -> None:
    if weights.is_file():  # in several files only if it were larger than any text encoder of CLIP
        named = {_PREFIX + name.removeprefix(_PREFIX): value for name, value in load_file(weights).items()}
        save_file(named, weights, metadata={"format": "pt"})


def _split(tokenizer: Path) -> None:
    if not tokenizer.is_file():
        return
    model = json.loads(tokenizer.read_text(encoding="utf-8"))["model"]
    vocabulary = json.dumps(model["vocab"], ensure_ascii=False)
    tokenizer.with_name("vocab.json").write_text(vocabulary, encoding="utf-8")
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    lines = "\n".join(["#version: 0.2", *merges, ""])
    tokenizer.with_name("merges.txt").write_text(lines, encoding="utf-8")
