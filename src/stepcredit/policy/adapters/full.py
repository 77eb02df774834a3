"""Full fine-tuning: all weights of the denoiser."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any
from weakref import WeakSet

import torch
from diffusers import DiffusionPipeline
from diffusers.utils import SAFETENSORS_WEIGHTS_NAME
from safetensors.torch import save_file
from torch import Tensor, nn

from stepcredit.distributed.process_group import full_tensor
from stepcredit.errors import InputError
from stepcredit.policy.adapters.denoiser import denoiser_name
from stepcredit.policy.adapters.fsdp import is_sharded, shard_all_like

_trained: WeakSet[nn.Module] = WeakSet()


def is_trained(denoiser: nn.Module) -> bool:
    """Whether a FullAdapter of this process has the denoiser, so that its weights are not those of a base model."""
    return denoiser in _trained


class FullAdapter:
    """Trains all weights of the denoiser in float32. A copy of the initial weights stays on the CPU as the reference.

    A bfloat16 weight has 8 significant bits, so most updates would round to zero. A bfloat16 denoiser is therefore cast
    to float32 and runs under bfloat16 autocast, in rollouts and in replays.

    Raises:
        InputError: the denoiser is float16, whose gradients would need loss scaling inside the autocast.
    """

    def __init__(self, pipeline: DiffusionPipeline) -> None:
        self._name = denoiser_name(pipeline)
        self._denoiser: Any = getattr(pipeline, self._name).requires_grad_(True)
        self._dtype = self._denoiser.dtype
        if self._dtype == torch.float16:
            raise InputError(
                "float16 weights cannot be trained: set model.dtype=bfloat16 or float32, or model.adapter=lora"
            )
        if self._dtype == torch.bfloat16:
            _compute_in_bfloat16(self._denoiser)
        _trained.add(self._denoiser)
        self._initial = {name: value.detach().cpu().clone() for name, value in self._denoiser.state_dict().items()}

    def parameters(self) -> list[nn.Parameter]:
        return list(self._denoiser.parameters())

    def state_dict(self) -> dict[str, Tensor]:
        return {name: value.detach() for name, value in self._denoiser.state_dict().items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        own = self._initial
        if {name: value.shape for name, value in state.items()} != {name: value.shape for name, value in own.items()}:
            raise InputError(f"these weights are not of this {self._name}: it has {len(own)} tensors")
        self._denoiser.load_state_dict(shard_all_like(state, self.state_dict()))

    def stepped(self) -> None:
        return

    @contextmanager
    def reference(self) -> Iterator[None]:
        trained = {name: value.clone() for name, value in self.state_dict().items()}
        self._denoiser.load_state_dict(shard_all_like(self._initial, trained))
        try:
            yield
        finally:
            self._denoiser.load_state_dict(trained)

    def averaged(self) -> AbstractContextManager[None]:
        return nullcontext()

    def merge(self) -> None:
        if self._dtype == torch.bfloat16:
            del self._denoiser.forward
        self._denoiser.to(self._dtype).requires_grad_(False)

    def export(self, folder: Path) -> Path:
        """The denoiser's folder, for `from_pretrained`. If it is sharded, all ranks must call this; rank 0 writes."""
        if not is_sharded(self._denoiser):
            self._denoiser.save_pretrained(folder)
            return folder
        weights = {name: full_tensor(value).cpu().contiguous() for name, value in self.state_dict().items()}
        if torch.distributed.get_rank() == 0:
            self._denoiser.save_config(folder)
            save_file(weights, folder / SAFETENSORS_WEIGHTS_NAME, metadata={"format": "pt"})
        return folder


def _compute_in_bfloat16(denoiser: Any) -> None:
    """Cast the weights to float32 and run the forward under bfloat16 autocast."""
    denoiser.float()
    denoiser.forward = torch.autocast(denoiser.device.type, torch.bfloat16)(denoiser.forward)
