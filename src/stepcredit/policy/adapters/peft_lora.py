"""A LoRA on the denoiser of a pipeline for which diffusers has no LoRA, through peft alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from diffusers import DiffusionPipeline
from peft import LoraConfig
from peft.tuners.lora import LoraModel
from peft.utils import CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME, get_peft_model_state_dict
from safetensors.torch import save_file

from stepcredit.policy.adapters.denoiser import denoiser_name
from stepcredit.policy.adapters.lora import LoraAdapter

CONFIG = CONFIG_NAME
_ADAPTER = "default"
_PREFIX = "base_model.model."
"""What PeftModel puts before the names of the weights."""


class PeftLoraAdapter(LoraAdapter):
    """As `LoraAdapter`. It is exported as a folder for `PeftModel.from_pretrained(denoiser, folder)`."""

    _tuner: LoraModel

    @contextmanager
    def reference(self) -> Iterator[None]:
        self._tuner.disable_adapter_layers()
        try:
            yield
        finally:
            self._tuner.enable_adapter_layers()

    def merge(self) -> None:
        """See `LoraAdapter.merge`."""
        self._tuner.merge_and_unload()
        if hasattr(self._denoiser, "peft_config"):
            del self._denoiser.peft_config

    def export(self, folder: Path) -> Path:
        return write_peft(self._pipeline, folder)

    def _inject(self, config: LoraConfig) -> None:
        self._tuner = LoraModel(self._denoiser, config, _ADAPTER)


def write_peft(pipeline: DiffusionPipeline, folder: Path) -> Path:
    """Write the denoiser's LoRA as peft does: adapter_config.json and adapter_model.safetensors. Returns `folder`.

    Alpha is in adapter_config.json, so the matrices are written as trained.
    """
    denoiser: Any = getattr(pipeline, denoiser_name(pipeline))
    folder.mkdir(parents=True, exist_ok=True)
    replace(denoiser.peft_config[_ADAPTER], inference_mode=True).save_pretrained(str(folder))
    weights = {
        f"{_PREFIX}{name}": value.detach().cpu().contiguous()
        for name, value in get_peft_model_state_dict(denoiser).items()
    }
    save_file(weights, folder / SAFETENSORS_WEIGHTS_NAME, metadata={"format": "pt"})
    return folder
