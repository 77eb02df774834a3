"""A LoRA on the denoiser, through diffusers' own `add_adapter`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict, set_peft_model_state_dict
from torch import Tensor, nn

from stepcredit.errors import InputError
from stepcredit.policy.adapters.denoiser import denoiser_name

WEIGHTS = "pytorch_lora_weights.safetensors"
_MAX_LISTED = 8


class LoraAdapter:
    """Trains low-rank matrices on the denoiser. They are float32 for every dtype of the frozen weights.

    A layer W becomes W + (alpha / rank) B A. B starts at zero, so the adapted denoiser starts equal to the base model;
    A is drawn from `seed`. There is no dropout, because a replay must compute what its rollout computed.

    Args:
        targets: endings of the names of the adapted layers.
        excluded: full names of layers to leave out although they match.

    Raises:
        InputError: the targets do not fit the denoiser.
    """

    def __init__(
        self,
        pipeline: DiffusionPipeline,
        rank: int,
        alpha: float | None,
        targets: Sequence[str],
        seed: int,
        excluded: Sequence[str] = (),
    ) -> None:
        self._pipeline = pipeline
        self._name = denoiser_name(pipeline)
        self._denoiser: Any = getattr(pipeline, self._name)
        self._scale = (rank if alpha is None else alpha) / rank
        config = LoraConfig(
            r=rank,
            lora_alpha=rank if alpha is None else alpha,
            target_modules=list(targets),
            exclude_modules=self._matching_exclusions(targets, excluded),
            lora_dropout=0.0,
            init_lora_weights="gaussian",
        )
        self._add(config, seed)
        self._parameters = [parameter for parameter in self._denoiser.parameters() if parameter.requires_grad]
        for parameter in self._parameters:
            parameter.data = parameter.data.float()

    def parameters(self) -> list[nn.Parameter]:
        return list(self._parameters)

    def state_dict(self) -> dict[str, Tensor]:
        return {name: value.detach() for name, value in get_peft_model_state_dict(self._denoiser).items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        own = self.state_dict()
        if {name: value.shape for name, value in state.items()} != {name: value.shape for name, value in own.items()}:
            raise InputError(f"these weights are not of this adapter: it has {len(self._parameters)} LoRA matrices")
        set_peft_model_state_dict(self._denoiser, state)

    def stepped(self) -> None:
        return

    @contextmanager
    def reference(self) -> Iterator[None]:
        self._denoiser.disable_adapters()
        try:
            yield
        finally:
            self._denoiser.enable_adapters()

    def averaged(self) -> AbstractContextManager[None]:
        return nullcontext()

    def merge(self) -> None:
        """Replaces W by W + (alpha / rank) B A. B A is computed in float32; the sum is rounded to the dtype of W."""
        self._pipeline.fuse_lora(components=[self._name])
        self._pipeline.unload_lora_weights()

    def export(self, folder: Path) -> Path:
        """`pytorch_lora_weights.safetensors` for stock `load_lora_weights`, at alpha = rank.

        Programs interpret other values of alpha differently, so alpha / rank is multiplied into the B matrices.
        """
        layers = {
            name: (value * self._scale if ".lora_B." in name else value).contiguous().cpu()
            for name, value in self.state_dict().items()
        }
        self._pipeline.save_lora_weights(folder, **{f"{self._name}_lora_layers": layers})
        return folder / WEIGHTS

    def _matching_exclusions(self, targets: Sequence[str], excluded: Sequence[str]) -> list[str] | None:
        """The part of `excluded` that `targets` match (peft refuses others); InputError if no target layer is left."""
        matched = {name for name, _ in self._denoiser.named_modules() if _ends_with_any(name, targets)}
        if matched <= set(excluded):
            reason = "match only layers without influence on the output" if matched else "match no layer"
            raise InputError(
                f"LoRA targets {list(targets)} {reason} of the {self._name}; "
                f"its linear layers end in {', '.join(_common_endings(self._denoiser))}"
            )
        return sorted(matched & set(excluded)) or None

    def _add(self, config: LoraConfig, seed: int) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            try:
                self._inject(config)
            except ValueError as error:
                reason = " ".join(str(error).split())[:200]
                targets = sorted(config.target_modules or ())
                raise InputError(f"LoRA targets {targets} do not fit the {self._name}: {reason}") from error
        self._denoiser.eval()

    def _inject(self, config: LoraConfig) -> None:
        self._denoiser.add_adapter(config)


def has_lora_loader(pipeline: DiffusionPipeline) -> bool:
    """Whether diffusers can add, save and load LoRAs of the pipeline's denoiser."""
    denoiser = getattr(pipeline, denoiser_name(pipeline))
    return hasattr(denoiser, "add_adapter") and hasattr(pipeline, "save_lora_weights")


def _ends_with_any(name: str, endings: Sequence[str]) -> bool:
    return any(name == ending or name.endswith(f".{ending}") for ending in endings)


def _common_endings(denoiser: nn.Module) -> list[str]:
    """Endings of the names of linear layers, the most frequent first, such as `to_q` and `to_out.0`."""
    endings = Counter(_ending(name) for name, part in denoiser.named_modules() if isinstance(part, nn.Linear))
    return [ending for ending, _ in endings.most_common(_MAX_LISTED)]


def _ending(name: str) -> str:
    parts = name.split(".")
    named = max((number for number, part in enumerate(parts) if not part.isdecimal()), default=0)
    return ".".join(parts[named:])
