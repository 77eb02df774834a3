"""The trained weights as they were at a rollout."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from stepcredit.types import Policy
from stepcredit.utils.signals import finished_first


class OldWeights:
    """A copy of the trained weights of `policy`, which can take their place for a while."""

    def __init__(self, policy: Policy) -> None:
        self._parameters = policy.parameters()
        self._copies = [parameter.detach().clone() for parameter in self._parameters]

    @contextmanager
    def active(self) -> Iterator[None]:
        """Inside, the policy has the copied weights. Afterwards it has its own again, bit for bit."""
        current = [parameter.detach().clone() for parameter in self._parameters]
        try:
            _write(self._parameters, self._copies)
            yield
        finally:
            with finished_first():
                _write(self._parameters, current)


@torch.no_grad()
def _write(parameters: Sequence[nn.Parameter], values: Sequence[Tensor]) -> None:
    for parameter, value in zip(parameters, values, strict=True):
        parameter.copy_(value)
