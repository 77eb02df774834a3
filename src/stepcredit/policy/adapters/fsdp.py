"""FSDP2: the denoiser's weights sharded over the processes of a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor

from stepcredit.distributed.process_group import shard_like
from stepcredit.policy.adapters.denoiser import repeated_blocks


def shard(denoiser: Any) -> None:
    """Shard the weights in place. A forward gathers them block by block and frees them again.

    The matrices of a LoRA are small: they stay unsharded. Gradients of sharded weights are summed over the processes.
    """
    trained = {parameter for parameter in denoiser.parameters() if parameter.requires_grad}
    is_lora = len(trained) < len(list(denoiser.parameters()))
    for part in (*reversed(repeated_blocks(denoiser)), denoiser):  # inner ones first: outer ones take what is left
        fully_shard(part, reshard_after_forward=True, ignored_params=trained if is_lora else set())
    for part in denoiser.modules():
        if isinstance(part, FSDPModule):
            part.set_gradient_divide_factor(1.0)
            part.set_force_sum_reduction_for_comms(True)  # gloo has no reduction that divides


def shard_all_like(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of `state`, sharded if those of the same name in `own` are."""
    return {name: shard_like(value, own[name]) if name in own else value for name, value in state.items()}


def is_sharded(module: nn.Module) -> bool:
    return any(isinstance(parameter, DTensor) for parameter in module.parameters())
