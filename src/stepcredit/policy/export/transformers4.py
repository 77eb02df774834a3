"""Makes a pipeline saved with transformers 5 readable with transformers 4."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors.torch import load_file, save_file

_PREFIX = "text_model."


def make_readable(folder: Path) -> None:
    """Rewrite the CLIP text encoders and tokenizers in a pipeline's folder so that both versions can read them.

    transformers 5 saves the weights of a CLIPTextModel without the prefix `text_model.`; version 4 finds none of them
    and silently initializes random ones. Version 5 saves a tokenizer as tokenizer.json only; version 4 needs vocab.json
    and merges.txt.
    """
    for config in folder.glob("*/config.json"):
        if json.loads(config.read_text(encoding="utf-8")).get("architectures") == ["CLIPTextModel"]:
            _prefix(config.with_name("model.safetensors"))
    for settings in folder.glob("*/tokenizer_config.json"):
        if "CLIPTokenizer" in json.loads(settings.read_text(encoding="utf-8")).get("tokenizer_class", ""):
            _split(settings.with_name("tokenizer.json"))


def _prefix(weights: Path) -> None:
    if weights.is_file():  # no CLIP text encoder is large enough for several files
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
