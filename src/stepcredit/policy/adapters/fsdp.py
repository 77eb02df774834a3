"""The denoiser's weights shared out over the processes of a run: FSDP2."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor

from stepcredit.distributed.process_group import shard_like
from stepcredit.policy.adapters.denoiser import repeated_blocks


def share_out(denoiser: Any) -> None:
    """Leave each process its part of every weight, in place; a forward brings the parts together, block by block.

    A LoRA is small and stays whole on every process, so that it is trained and kept as ever. Gradients of weights that
    are shared out are added up over the processes. Repeated blocks are units of their own, where the model names them.
    Between forwards there are only parts: weights that are read or replaced there are those of the next forward.
    """
    trained = {parameter for parameter in denoiser.parameters() if parameter.requires_grad}
    is_lora = len(trained) < len(list(denoiser.parameters()))
    for part in (*reversed(repeated_blocks(denoiser)), denoiser):  # inner ones first, so that outer ones leave them out
        fully_shard(part, reshard_after_forward=True, ignored_params=trained if is_lora else set())
    for part in denoiser.modules():
        if isinstance(part, FSDPModule):
            part.set_gradient_divide_factor(1.0)
            part.set_force_sum_reduction_for_comms(True)  # gloo cannot divide on the way


def placed_like(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Whole tensors as parts, where those of the same name in `own` are parts."""
    return {name: shard_like(value, own[name]) if name in own else value for name, value in state.items()}


def shared_out(module: nn.Module) -> bool:
    return any(isinstance(parameter, DTensor) for parameter in module.parameters())


def is_first() -> bool:
    """Whether this process writes what all of them hold."""
    return torch.distributed.get_rank() == 0
