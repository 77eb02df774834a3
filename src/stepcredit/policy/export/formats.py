"""Writes trained weights in the formats that other programs read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from diffusers import DiffusionPipeline

from stepcredit.errors import InputError, unknown
from stepcredit.policy.adapters import Adapter, denoiser_name, has_lora_loader
from stepcredit.policy.adapters.peft_lora import CONFIG, write_peft
from stepcredit.policy.export import kohya, transformers4

FORMATS = ("lora", "diffusers", "peft", "kohya", "merged")


def export_format(name: Any) -> str:
    """`name`, if it is one of FORMATS. InputError with the most similar name if it is none."""
    if name not in FORMATS:
        raise unknown("export format", str(name), FORMATS)
    return str(name)


def write(pipeline: DiffusionPipeline, adapter: Adapter, form: str, folder: Path) -> Path:
    """Write the trained weights (the EMA, if there is one) into `folder`; returns the file or folder to load.

    | form | content |
    |---|---|
    | `lora` | `diffusers`, or `peft` for a LoRA of a pipeline for which diffusers has no LoRA loader |
    | `diffusers` | a LoRA for `load_lora_weights`; after full fine-tuning, the folder of the denoiser |
    | `peft` | a folder with the LoRA for `PeftModel.from_pretrained` |
    | `kohya` | the LoRA as ComfyUI and A1111 read it |
    | `merged` | a whole pipeline for `from_pretrained`, in its original dtypes and with its own scheduler |

    A merged pipeline can be read with transformers 4 and 5. `adapter` cannot be used afterwards.

    Raises:
        InputError: the format is unknown or cannot hold this pipeline.
    """
    match form:
        case "lora":
            return adapter.export(folder)
        case "diffusers":
            if _has_lora(pipeline) and not has_lora_loader(pipeline):
                raise InputError(
                    f"diffusers has no LoRA loader for {type(pipeline).__name__}; use --format peft or merged"
                )
            return adapter.export(folder)
        case "peft":
            if not _has_lora(pipeline):
                raise InputError(
                    "peft's format is for LoRAs, but all weights were trained; use --format lora or merged"
                )
            with adapter.averaged():
                return write_peft(pipeline, folder)
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


def _has_lora(pipeline: DiffusionPipeline) -> bool:
    return bool(getattr(getattr(pipeline, denoiser_name(pipeline)), "peft_config", None))


def loading_hint(pipeline: DiffusionPipeline, path: Path) -> str:
    """The Python expression that loads what `write` returned."""
    if path.name == kohya.WEIGHTS:
        return f'pipe.load_lora_weights("{path}"), or put it with the LoRAs of ComfyUI or A1111'
    if path.is_file():
        return f'pipe.load_lora_weights("{path}")'
    if (path / "model_index.json").is_file():
        return f'DiffusionPipeline.from_pretrained("{path}")'
    name = denoiser_name(pipeline)
    if (path / CONFIG).is_file():
        return f'peft.PeftModel.from_pretrained(pipe.{name}, "{path}")'
    return f'pipe.{name} = {type(getattr(pipeline, name)).__name__}.from_pretrained("{path}")'
