"""Started by accelerate with DeepSpeed: an optimizer that is shared out against one that is whole.

    accelerate launch --use_deepspeed --zero_stage 2 --num_processes 2 -m tests.distributed.deepspeed_steps

prints a JSON object: of each step, whether it was made, whether plain AdamW made it with the gradients of all
processes, and the largest relative difference of norm, weights and moments.
"""

from __future__ import annotations

import json
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from stepcredit.config import TrainSection
from stepcredit.distributed.deepspeed import DeepSpeedOptimizer
from stepcredit.distributed.optimizer import PlainOptimizer, Step, build_optimizer
from stepcredit.distributed.process_group import init_process_group

SECTION = TrainSection(learning_rate=0.01, weight_decay=0.1, max_grad_norm=0.5)
ROWS = torch.linspace(-2.0, 3.0, 28).view(7, 4)
SHARES = (range(2), range(2, 7))
"""Rows of each process: the first has fewer forwards than the second."""


class Line:
    """As much of a policy as a optimizer asks for. The second weight is used by later rows alone, the last by none."""

    def __init__(self) -> None:
        shapes = ((4, 3), (5,), (3,), (2,))
        self.weights = [nn.Parameter(torch.linspace(-1.0, 1.0, torch.Size(s).numel()).view(s)) for s in shapes]
        self.told = 0

    def parameters(self) -> list[nn.Parameter]:
        return self.weights

    def stepped(self) -> None:
        self.told += 1

    def losses(self, rows: range, nan_loss: int | None = None, nan_gradient: int | None = None) -> list[Tensor]:
        """Backpropagate the losses of some rows and return them, one of them spoilt in one way or the other."""
        found = []
        for row in rows:
            loss = (torch.tanh(ROWS[row] @ self.weights[0]) + self.weights[2]).square().sum() / len(ROWS)
            loss = loss + self.weights[1].sum() / 7 if row > 1 else loss
            (loss * float("nan") if row == nan_gradient else loss).backward()
            found.append(loss.detach() * float("nan") if row == nan_loss else loss.detach())
        return found


def difference(one: Tensor, two: Tensor) -> float:
    return float((one.detach() - two.detach()).abs().max() / two.detach().abs().max().clamp(min=1e-30))


def main() -> None:
    warnings.simplefilter("ignore")
    processes = init_process_group(2, cpu=True)
    ours, theirs = Line(), Line()
    shared: Any = DeepSpeedOptimizer(ours, SECTION, processes)  # type: ignore[arg-type]
    plain: Any = PlainOptimizer(theirs, build_optimizer(theirs.weights, SECTION, allow_fused=False), shared.scaler, 0.5)  # type: ignore[arg-type]
    found: dict[str, Any] = {}

    def stepped(**spoilt: int) -> tuple[Step, Step]:
        theirs.weights[3].grad = torch.zeros(2)  # DeepSpeed decays a weight without a gradient too
        steps = (
            shared.step(ours.losses(SHARES[processes.rank], **spoilt)),
            plain.step(theirs.losses(range(7), **spoilt)),
        )
        shared.clear()
        plain.clear()
        return steps

    def compared(name: str, **spoilt: int) -> None:
        one, two = stepped(**spoilt)
        moments = shared.tensors()
        pairs = list(zip(ours.weights, theirs.weights, strict=True))
        pairs += [(moments[key], value) for key, value in plain.tensors().items()]
        found[name] = {
            "made": [one.made, two.made],
            "told": [ours.told, theirs.told],
            "difference": max(difference(*pair) for pair in [*pairs, *([(one.norm, two.norm)] if two.made else [])]),
        }

    compared("first")
    compared("a loss that is not finite", nan_loss=6)
    compared("a gradient that is not finite", nan_gradient=0)
    compared("second")
    kept = [{name: value.clone() for name, value in optimizer.tensors().items()} for optimizer in (shared, plain)]
    weights = [weight.detach().clone() for weight in theirs.weights]
    stepped()
    for policy in (ours, theirs):
        for weight, value in zip(policy.weights, weights, strict=True):
            weight.detach().copy_(value)
    for optimizer, tensors in zip((shared, plain), kept, strict=True):
        optimizer.restore(tensors)
    compared("third again")
    if processes.is_main:
        print(json.dumps(found))
    processes.destroy()


if __name__ == "__main__":
    main()
