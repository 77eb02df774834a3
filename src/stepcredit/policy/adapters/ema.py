"""A running average of the trained weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from stepcredit.distributed.process_group import shard_like
from stepcredit.errors import InputError
from stepcredit.policy.adapters.protocol import Adapter
from stepcredit.utils.signals import finished_first

_UPDATES = "ema.updates"


def warmed_up(decay: float, updates: int) -> float:
    """Decay of the update that follows `updates` others: min(decay, (1 + n) / (10 + n)), 0.1 for the first.

    Early averages thus forget the untrained weights. As in TensorFlow's ExponentialMovingAverage(num_updates).

    >>> warmed_up(0.5, 0), warmed_up(0.5, 8), warmed_up(0.5, 100)
    (0.1, 0.5, 0.5)
    """
    return min(decay, (1 + updates) / (10 + updates))


class AveragedAdapter:
    """An adapter with float32 averages of what it trains, which are shown and exported in its place.

        average_n+1 = d_n average_n + (1 - d_n) weights,   d_n = warmed_up(decay, n)

    The averages start at the initial weights. At decay 0 they are the weights of the last step.

    Args:
        inner: the adapter that is trained.
        decay: in [0, 1).
    """

    def __init__(self, inner: Adapter, decay: float) -> None:
        self._inner = inner
        self._decay = decay
        self._updates = 0
        self._averages = [parameter.detach().float().clone() for parameter in inner.parameters()]
        self._shown = False

    def parameters(self) -> list[nn.Parameter]:
        return self._inner.parameters()

    def state_dict(self) -> dict[str, Tensor]:
        """The inner adapter's, with `ema.updates` and the averages as `ema.<parameter index>`."""
        self._require_trained("saved")
        averages = {f"ema.{index}": average for index, average in enumerate(self._averages)}
        return self._inner.state_dict() | averages | {_UPDATES: torch.tensor(self._updates)}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self._require_trained("loaded")
        names = [f"ema.{index}" for index in range(len(self._averages))]
        if _UPDATES not in state or any(
            name not in state or state[name].shape != average.shape
            for name, average in zip(names, self._averages, strict=True)
        ):
            raise InputError("these weights hold no averages of this adapter: they were trained with another model.ema")
        own = {_UPDATES, *names}
        self._inner.load_state_dict({name: value for name, value in state.items() if name not in own})
        for name, average in zip(names, self._averages, strict=True):
            average.copy_(shard_like(state[name], average))
        self._updates = int(state[_UPDATES])

    @torch.no_grad()
    def stepped(self) -> None:
        self._require_trained("averaged")
        weight = 1 - warmed_up(self._decay, self._updates)
        for average, parameter in zip(self._averages, self._inner.parameters(), strict=True):
            average.lerp_(parameter.float(), weight)
        self._updates += 1

    def reference(self) -> AbstractContextManager[None]:
        return self._inner.reference()

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The weights, copied away meanwhile, come back bit for bit, also when the body fails."""
        self._require_trained("shown averaged")
        parameters = self._inner.parameters()
        trained = [parameter.detach().clone() for parameter in parameters]
        try:
            self._put(parameters, self._averages)
            self._shown = True
            yield
        finally:
            with finished_first():
                self._shown = False
                self._put(parameters, trained)

    def merge(self) -> None:
        self._inner.merge()

    def export(self, folder: Path) -> Path:
        with self.averaged():
            return self._inner.export(folder)

    @staticmethod
    @torch.no_grad()
    def _put(parameters: list[nn.Parameter], values: list[Tensor]) -> None:
        for parameter, value in zip(parameters, values, strict=True):
            parameter.copy_(value)

    def _require_trained(self, what: str) -> None:
        if self._shown:
            raise RuntimeError(f"the adapter shows its averages: leave averaged() before it is {what}")
