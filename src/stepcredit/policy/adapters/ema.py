"""An exponential moving average (EMA) of the trained weights."""

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
    """Decay of the next update after n = `updates`: min(decay, (1 + n) / (10 + n)), 0.1 for the first.

    The warm-up makes early averages forget the untrained weights. Source: TensorFlow's
    ExponentialMovingAverage(num_updates).

    >>> warmed_up(0.5, 0), warmed_up(0.5, 8), warmed_up(0.5, 100)
    (0.1, 0.5, 0.5)
    """
    return min(decay, (1 + updates) / (10 + updates))


class AveragedAdapter:
    """An adapter with float32 averages of its trained weights, which images and exports are made with.

        average_n+1 = d_n average_n + (1 - d_n) weights,   d_n = warmed_up(decay, n)

    The averages start at the initial weights. With decay 0 they equal the weights of the last step.

    Args:
        inner: the trained adapter.
        decay: in [0, 1).
    """

    def __init__(self, inner: Adapter, decay: float) -> None:
        self._inner = inner
        self._decay = decay
        self._updates = 0
        self._averages = [parameter.detach().float().clone() for parameter in inner.parameters()]
        self._swapped = False

    def parameters(self) -> list[nn.Parameter]:
        return self._inner.parameters()

    def state_dict(self) -> dict[str, Tensor]:
        """The inner adapter's state, `ema.updates`, and the averages as `ema.<parameter index>`."""
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
            raise InputError(
                "these weights have no averages of this adapter: they were trained with a different model.ema"
            )
        own = {_UPDATES, *names}
        self._inner.load_state_dict({name: value for name, value in state.items() if name not in own})
        for name, average in zip(names, self._averages, strict=True):
            average.copy_(shard_like(state[name], average))
        self._updates = int(state[_UPDATES])

    @torch.no_grad()
    def stepped(self) -> None:
        self._require_trained("updated")
        weight = 1 - warmed_up(self._decay, self._updates)
        for average, parameter in zip(self._averages, self._inner.parameters(), strict=True):
            average.lerp_(parameter.float(), weight)
        self._updates += 1

    def reference(self) -> AbstractContextManager[None]:
        return self._inner.reference()

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Swaps in the averages. The trained weights come back bit for bit, even if the body raises."""
        self._require_trained("averaged again")
        parameters = self._inner.parameters()
        trained = [parameter.detach().clone() for parameter in parameters]
        try:
            self._assign(parameters, self._averages)
            self._swapped = True
            yield
        finally:
            with finished_first():
                self._swapped = False
                self._assign(parameters, trained)

    def merge(self) -> None:
        self._inner.merge()

    def export(self, folder: Path) -> Path:
        with self.averaged():
            return self._inner.export(folder)

    @staticmethod
    @torch.no_grad()
    def _assign(parameters: list[nn.Parameter], values: list[Tensor]) -> None:
        for parameter, value in zip(parameters, values, strict=True):
            parameter.copy_(value)

    def _require_trained(self, action: str) -> None:
        if self._swapped:
            raise RuntimeError(f"the adapter holds its averages: leave averaged() before it is {action}")
