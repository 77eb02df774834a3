"""No training: the denoiser as it is, to sample from a model."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from torch import Tensor, nn

from stepcredit.errors import InputError


class FrozenAdapter:
    """An adapter without trained weights. Any pipeline has it, also one for which diffusers has no LoRA."""

    def parameters(self) -> list[nn.Parameter]:
        return []

    def state_dict(self) -> dict[str, Tensor]:
        return {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        if state:
            raise InputError("cannot load trained weights into a model that was loaded without an adapter")

    def stepped(self) -> None:
        return

    def reference(self) -> AbstractContextManager[None]:
        return nullcontext()

    def averaged(self) -> AbstractContextManager[None]:
        return nullcontext()

    def merge(self) -> None:
        return

    def export(self, folder: Path) -> Path:
        raise InputError("there are no trained weights to export")
