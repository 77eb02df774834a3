"""The optimizer of a run and its steps, which use the gradients of all processes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from stepcredit.config import TrainSection
from stepcredit.distributed.process_group import ProcessGroup, full_tensor, shard_like
from stepcredit.types import Policy
from stepcredit.utils.optimizer_state import optimizer_tensors, restore_optimizer


class Step(NamedTuple):
    """The outcome of an update.

    Attributes:
        made: whether the weights were changed. It is the same on all processes.
        norm: norm of the gradient before clipping. Meaningless if the step was not made.
    """

    made: bool
    norm: Tensor


class TrainingOptimizer(Protocol):
    """Makes optimizer steps with the gradients that the policy's parameters hold.

    Attributes:
        optimizer: the torch optimizer.
        scaler: scales losses before they are backpropagated. Disabled unless the weights are float16.
    """

    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler

    def step(self, losses: Sequence[Tensor]) -> Step:
        """Sum the gradients over all processes, clip the sum and step, then call `policy.stepped`.

        The step is skipped if the gradient or a loss of any process is not finite.
        """
        ...

    def clear(self) -> None:
        """Set all gradients to None."""
        ...

    def tensors(self) -> dict[str, Tensor]:
        """The unsharded optimizer state, named as by `optimizer_tensors`. A collective: all processes must call it."""
        ...

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Load the result of `tensors` and adopt the policy's present weights. All processes must call it."""
        ...


def build_optimizer(
    parameters: Iterable[torch.nn.Parameter], section: TrainSection, *, allow_fused: bool = True
) -> torch.optim.AdamW:
    """AdamW with the settings of `section`, fused on CUDA.

    Args:
        allow_fused: False never fuses: the fused kernel would count steps that a loss scaler skips, and DeepSpeed has
            its own.
    """
    weights = list(parameters)
    return torch.optim.AdamW(
        weights,
        lr=section.learning_rate,
        betas=section.betas,
        eps=section.adam_epsilon,
        weight_decay=section.weight_decay,
        fused=weights[0].device.type == "cuda" and allow_fused,
    )


class PlainOptimizer:
    """A TrainingOptimizer in which each process holds the optimizer state of the weights that it holds.

    Args:
        max_norm: gradients with a larger norm are scaled down to it.
    """

    def __init__(
        self,
        policy: Policy,
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler,
        max_norm: float,
        processes: ProcessGroup | None = None,
    ) -> None:
        self.optimizer = optimizer
        self.scaler = scaler
        self._policy = policy
        self._max_norm = max_norm
        self._processes = processes or ProcessGroup()
        optimizer.register_step_post_hook(lambda *_: policy.stepped())  # not called for steps that the scaler skips

    def step(self, losses: Sequence[Tensor]) -> Step:
        weights = self._policy.parameters()
        self._processes.all_reduce_gradients(weights)
        self.scaler.unscale_(self.optimizer)
        norm = full_tensor(torch.nn.utils.clip_grad_norm_(weights, self._max_norm).detach())
        made = self._processes.all_true(all_finite(*losses, norm))
        if made:
            self.scaler.step(self.optimizer)
        return Step(made, norm)

    def clear(self) -> None:
        clear_gradients(self._policy.parameters())

    def tensors(self) -> dict[str, Tensor]:
        return {name: full_tensor(value) for name, value in optimizer_tensors(self.optimizer).items()}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        weights = self._policy.parameters()
        shards = {
            name: shard_like(value, weights[int(name.split(".")[0])]) if value.ndim else value
            for name, value in tensors.items()
        }
        restore_optimizer(self.optimizer, shards)


def all_finite(*numbers: Tensor) -> bool:
    """Whether all of these 0-d tensors are finite. Synchronizes with the device once."""
    return not numbers or bool(torch.stack(numbers).isfinite().all())


def clear_gradients(weights: Iterable[torch.nn.Parameter]) -> None:
    for weight in weights:
        weight.grad = None
