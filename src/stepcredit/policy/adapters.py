"""What of the denoiser is trained: a LoRA through diffusers' own `add_adapter`, or every weight."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from diffusers import DiffusionPipeline
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict, set_peft_model_state_dict
from torch import Tensor, nn

from stepcredit.config import ModelSection
from stepcredit.errors import InputError


class Adapter(Protocol):
    """The trained part of a pipeline's denoiser."""

    def parameters(self) -> list[nn.Parameter]: ...

    def state_dict(self) -> dict[str, Tensor]: ...

    def load_state_dict(self, state: dict[str, Tensor]) -> None: ...

    def reference(self) -> AbstractContextManager[None]:
        """While active, the denoiser is as it was before training."""
        ...

    def export(self, folder: Path) -> Path: ...


def denoiser_name(pipeline: DiffusionPipeline) -> str:
    """`transformer` or `unet`, whichever the pipeline has."""
    for name in ("transformer", "unet"):
        if getattr(pipeline, name, None) is not None:
            return name
    raise InputError(f"{type(pipeline).__name__} has neither a unet nor a transformer to train")


def attach(pipeline: DiffusionPipeline, section: ModelSection, seed: int) -> Adapter:
    """Freeze the pipeline and open what `section.adapter` names for training."""
    for component in pipeline.components.values():
        if isinstance(component, nn.Module):
            component.requires_grad_(False).eval()
    if section.adapter == "full":
        if section.dtype == "float16":
            raise InputError("float16 weights cannot be trained: set model.dtype=float32, or model.adapter=lora")
        return FullAdapter(pipeline)
    return LoraAdapter(pipeline, section.lora_rank, section.lora_alpha, section.lora_targets, seed)


class LoraAdapter:
    """Low-rank adapters on the denoiser, float32 whatever the dtype of the frozen weights.

    B starts at zero, so the adapted denoiser starts equal to the base; A is drawn from `seed`.
    """

    def __init__(
        self, pipeline: DiffusionPipeline, rank: int, alpha: float | None, targets: Sequence[str], seed: int
    ) -> None:
        self._pipeline = pipeline
        self._name = denoiser_name(pipeline)
        self._denoiser: Any = getattr(pipeline, self._name)
        self._scale = (rank if alpha is None else alpha) / rank
        if not (hasattr(self._denoiser, "add_adapter") and hasattr(pipeline, "save_lora_weights")):
            raise InputError(f"diffusers has no LoRA for {type(pipeline).__name__}: set model.adapter=full")
        config = LoraConfig(
            r=rank,
            lora_alpha=rank if alpha is None else alpha,
            target_modules=list(targets),
            init_lora_weights="gaussian",
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            try:
                self._denoiser.add_adapter(config)
            except ValueError as error:
                reason = " ".join(str(error).split())[:200]
                raise InputError(f"LoRA targets {list(targets)} do not fit the {self._name}: {reason}") from error
        self._denoiser.eval()
        self._parameters = [parameter for parameter in self._denoiser.parameters() if parameter.requires_grad]
        for parameter in self._parameters:
            parameter.data = parameter.data.float()

    def parameters(self) -> list[nn.Parameter]:
        return list(self._parameters)

    def state_dict(self) -> dict[str, Tensor]:
        return {name: value.detach() for name, value in get_peft_model_state_dict(self._denoiser).items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        if state.keys() != self.state_dict().keys():
            raise InputError(f"these weights are not of this adapter: it has {len(self._parameters)} LoRA matrices")
        set_peft_model_state_dict(self._denoiser, state)

    @contextmanager
    def reference(self) -> Iterator[None]:
        self._denoiser.disable_adapters()
        try:
            yield
        finally:
            self._denoiser.enable_adapters()

    def export(self, folder: Path) -> Path:
        """`pytorch_lora_weights.safetensors` for stock `load_lora_weights`, at alpha = rank.

        Readers disagree about alpha other than rank, so alpha / rank is multiplied into the B matrices.
        """
        layers = {
            name: (value * self._scale if ".lora_B." in name else value).contiguous().cpu()
            for name, value in self.state_dict().items()
        }
        self._pipeline.save_lora_weights(folder, **{f"{self._name}_lora_layers": layers})
        return folder / "pytorch_lora_weights.safetensors"


class FullAdapter:
    """Every weight of the denoiser; a copy of the initial ones stays on the CPU as the reference."""

    def __init__(self, pipeline: DiffusionPipeline) -> None:
        self._name = denoiser_name(pipeline)
        self._denoiser: Any = getattr(pipeline, self._name).requires_grad_(True)
        self._initial = {name: value.detach().cpu().clone() for name, value in self._denoiser.state_dict().items()}

    def parameters(self) -> list[nn.Parameter]:
        return list(self._denoiser.parameters())

    def state_dict(self) -> dict[str, Tensor]:
        return {name: value.detach() for name, value in self._denoiser.state_dict().items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self._denoiser.load_state_dict(state)

    @contextmanager
    def reference(self) -> Iterator[None]:
        trained = {name: value.clone() for name, value in self.state_dict().items()}
        self._denoiser.load_state_dict(self._initial)
        try:
            yield
        finally:
            self._denoiser.load_state_dict(trained)

    def export(self, folder: Path) -> Path:
        """The denoiser's folder, for `from_pretrained`."""
        self._denoiser.save_pretrained(folder)
        return folder
