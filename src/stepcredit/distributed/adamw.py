"""The optimizer of a run."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from stepcredit.config import TrainSection


def build_optimizer(
    parameters: Iterable[torch.nn.Parameter], section: TrainSection, *, unfused: bool = False
) -> torch.optim.AdamW:
    """AdamW as `section` says, in one kernel for all weights where they are on a CUDA device.

    Args:
        unfused: not in one kernel anywhere: it would count steps that a loss scaler skips, and DeepSpeed has its own.
    """
    weights = list(parameters)
    return torch.optim.AdamW(
        weights,
        lr=section.learning_rate,
        betas=section.betas,
        eps=section.adam_epsilon,
        weight_decay=section.weight_decay,
        fused=weights[0].device.type == "cuda" and not unfused,
    )
