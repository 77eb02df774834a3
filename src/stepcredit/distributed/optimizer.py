"""The optimizer of a run, and how it makes a step with the gradients of all processes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from stepcredit.distributed.process_group import ProcessGroup, part_like, whole_tensor
from stepcredit.runs.checkpoint import optimizer_tensors, restore_optimizer
from stepcredit.types import Policy


class Step(NamedTuple):
    """What came of an update.

    Attributes:
        made: whether the weights were changed; the same on all processes.
        norm: of the gradient before it was clipped; of no meaning for a step that was not made.
    """

    made: bool
    norm: Tensor


class TrainingOptimizer(Protocol):
    """Follows the gradients that the policy's parameters have been given.

    Attributes:
        optimizer: makes the steps.
        scaler: of losses, before they are backpropagated.
    """

    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler

    def step(self, losses: Sequence[Tensor]) -> Step:
        """Add up the gradients of all processes, clip the sum and step; not if it, or any process's loss, is not
        finite. The policy is told of a step that is made.
        """
        ...

    def clear(self) -> None:
        """Forget the gradients that have been given."""
        ...

    def tensors(self) -> dict[str, Tensor]:
        """What the optimizer remembers, whole, under the names of `checkpoint.optimizer_tensors`; all have to ask."""
        ...

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Take what `tensors` gave, and the policy's weights as they are now. All have to."""
        ...


class PlainOptimizer:
    """Each process has the whole optimizer, or as much of it as of the weights.

    Args:
        largest: longer gradients are scaled down to this norm.
    """

    def __init__(
        self,
        policy: Policy,
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler,
        largest: float,
        processes: ProcessGroup | None = None,
    ) -> None:
        self.optimizer = optimizer
        self.scaler = scaler
        self._policy = policy
        self._largest = largest
        self._processes = processes or ProcessGroup()
        optimizer.register_step_post_hook(lambda *_: policy.stepped())  # not for steps that the scaler skips

    def step(self, losses: Sequence[Tensor]) -> Step:
        weights = self._policy.parameters()
        self._processes.all_reduce_gradients(weights)
        self.scaler.unscale_(self.optimizer)
        norm = whole_tensor(torch.nn.utils.clip_grad_norm_(weights, self._largest).detach())
        made = self._processes.all_true(finite(*losses, norm))
        if made:
            self.scaler.step(self.optimizer)
        return Step(made, norm)

    def clear(self) -> None:
        forget_gradients(self._policy.parameters())

    def tensors(self) -> dict[str, Tensor]:
        return {name: whole_tensor(value) for name, value in optimizer_tensors(self.optimizer).items()}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        weights = self._policy.parameters()
        parts = {
            name: part_like(value, weights[int(name.split(".")[1])]) if value.ndim else value
            for name, value in tensors.items()
        }
        restore_optimizer(self.optimizer, parts)


def finite(*figures: Tensor) -> bool:
    """Whether all of these single numbers are. Waits for the device."""
    return not figures or bool(torch.stack(figures).isfinite().all())


def forget_gradients(weights: Iterable[torch.nn.Parameter]) -> None:
    for weight in weights:
        weight.grad = None
