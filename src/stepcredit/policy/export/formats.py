"""Writes trained weights in the formats that other programs read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from diffusers import DiffusionPipeline

from stepcredit.errors import unknown
from stepcredit.policy.adapters import Adapter, denoiser_name
from stepcredit.policy.export import kohya, transformers4

FORMATS = ("diffusers", "kohya", "merged")
LORA = "lora"
"""Another name of `diffusers`."""


def export_format(name: Any) -> str:
    """The one of FORMATS that `name` selects. InputError with the most similar name if it is none."""
    if name not in (*FORMATS, LORA):
        raise unknown("export format", str(name), (*FORMATS, LORA))
    return FORMATS[0] if name == LORA else str(name)


def write(pipeline: DiffusionPipeline, adapter: Adapter, form: str, folder: Path) -> Path:
    """Write the trained weights (the EMA, if there is one) into `folder`; returns the file or folder to load.

    | form | content |
    |---|---|
    | `diffusers` | a LoRA for `load_lora_weights`; after full fine-tuning, the folder of the denoiser |
    | `kohya` | the LoRA as ComfyUI and A1111 read it |
    | `merged` | a whole pipeline for `from_pretrained`, in its original dtypes and with its own scheduler |

    A merged pipeline can be read with transformers 4 and 5. `adapter` cannot be used afterwards.

    Raises:
        InputError: the format is unknown or cannot hold this pipeline.
    """
    match form:
        case "diffusers":
            return adapter.export(folder)
        case "kohya":
            with adapter.averaged():
                return kohya.write(pipeline, folder)
        case "merged":
            with adapter.averaged():
                adapter.merge()
                pipeline.save_pretrained(folder)
            transformers4.make_readable(folder)
            return folder
    raise unknown("export format", form, FORMATS)


def loading_hint(pipeline: DiffusionPipeline, path: Path) -> str:
    """The Python expression that loads what `write` returned."""
    if path.name == kohya.WEIGHTS:
        return f'pipe.load_lora_weights("{path}"), or put it with the LoRAs of ComfyUI or A1111'
    if path.is_file():
        return f'pipe.load_lora_weights("{path}")'
    if (path / "model_index.json").is_file():
        return f'DiffusionPipeline.from_pretrained("{path}")'
    name = denoiser_name(pipeline)
    return f'pipe.{name} = {type(getattr(pipeline, name)).__name__}.from_pretrained("{path}")'
