"""From a model path to a pipeline, and from a configuration to a policy."""

from __future__ import annotations

import inspect
from pathlib import Path

import torch
from diffusers import DiffusionPipeline
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from torch import nn

from stepcredit.config import ModelSection, TrainConfig
from stepcredit.embedded import pipeline as embedded
from stepcredit.errors import InputError
from stepcredit.policy.adapters import attach
from stepcredit.policy.pipeline import PipelinePolicy
from stepcredit.policy.reentry import undecorated_call


def load_policy(config: TrainConfig) -> PipelinePolicy:
    """The policy of a configuration, untrained, on its device."""
    pipeline = load_pipeline(config.model)
    adapter = attach(pipeline, config.model, config.run.seed)
    return PipelinePolicy(pipeline, adapter, config.sample)


def load_pipeline(section: ModelSection) -> DiffusionPipeline:
    """A text-to-image pipeline by hub id, folder, or `embedded`; InputError with the reason if it is not one."""
    device, dtype = resolve_device(section.device), getattr(torch, section.dtype)
    pipeline = embedded.load_pipeline() if section.path == "embedded" else _from_pretrained(section.path, dtype)
    require_text_to_image(pipeline)
    return pipeline.to(device=device, dtype=dtype)


def resolve_device(name: str) -> torch.device:
    """`auto` is CUDA where there is one, else the CPU."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InputError(f"model.device is '{name}', expected auto, cpu, cuda or cuda:N") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InputError(f"model.device is '{name}' but this machine has no CUDA device")
    return device


def require_text_to_image(pipeline: DiffusionPipeline) -> None:
    """Refuse a pipeline that re-entry cannot serve, with the reason."""
    kind = type(pipeline).__name__
    undecorated_call(pipeline)
    parameters = inspect.signature(type(pipeline).__call__).parameters
    if "prompt" not in parameters:
        raise InputError(f"{kind} takes no prompt: it is not a text-to-image pipeline")
    for name in ("image", "mask_image", "control_image", "video"):
        if name in parameters:
            raise InputError(f"{kind} takes {name} beside a prompt: it is not a text-to-image pipeline")
    missing = [name for name in ("encode_prompt", "prepare_latents") if not hasattr(pipeline, name)]
    if missing:
        raise InputError(f"{kind} has no {missing[0]} method: its steps cannot be replayed")
    if "FlowMatch" in type(pipeline.scheduler).__name__:
        raise InputError(f"{kind} is a flow-matching model; this version trains models that DDIM can sample")
    if not hasattr(pipeline, "vae") or not any(
        isinstance(getattr(pipeline, name, None), nn.Module) for name in ("unet", "transformer")
    ):
        raise InputError(f"{kind} has no vae with a unet or transformer: it is not a text-to-image pipeline")


def _from_pretrained(path: str, dtype: torch.dtype) -> DiffusionPipeline:
    folder = Path(path)
    if folder.exists() and not (folder / "model_index.json").is_file():
        raise InputError(f"{path} is not a diffusers pipeline folder: it has no model_index.json")
    try:
        return DiffusionPipeline.from_pretrained(path, dtype=dtype)
    except (HfHubHTTPError, HFValidationError) as error:
        raise InputError(_unreachable(path)) from error
    except (OSError, ValueError, AttributeError, TypeError, ImportError) as error:
        reason = " ".join(str(error).split())[:300]
        if not folder.exists():
            raise InputError(f"{_unreachable(path)} ({reason})") from error
        raise InputError(f"cannot load a pipeline from {path}: {reason}") from error


def _unreachable(path: str) -> str:
    return f"no folder '{path}', and the hub did not serve a model of that name; check it, or give a local folder"
