"""The part of the Policy protocol that concerns trained weights, implemented by an adapter."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

from torch import Tensor, nn

from stepcredit.policy.adapters.protocol import Adapter


class AdapterWeights:
    """Base of policies whose trained weights belong to `adapter`; see `types.Policy` for the methods."""

    adapter: Adapter

    def parameters(self) -> list[nn.Parameter]:
        return self.adapter.parameters()

    def stepped(self) -> None:
        self.adapter.stepped()

    def averaged(self) -> AbstractContextManager[None]:
        return self.adapter.averaged()

    def reference(self) -> AbstractContextManager[None]:
        return self.adapter.reference()

    def state_dict(self) -> dict[str, Tensor]:
        return self.adapter.state_dict()

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.adapter.load_state_dict(state)

    def export(self, folder: Path) -> Path:
        return self.adapter.export(folder)
