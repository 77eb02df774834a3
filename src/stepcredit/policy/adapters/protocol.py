"""What every adapter can do."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from torch import Tensor, nn


class Adapter(Protocol):
    """The trained part of a pipeline's denoiser."""

    def parameters(self) -> list[nn.Parameter]:
        """What is trained, all of it float32."""
        ...

    def state_dict(self) -> dict[str, Tensor]:
        """Everything that training changes, by name."""
        ...

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Put back what `state_dict` gave; InputError if it is of another adapter."""
        ...

    def stepped(self) -> None:
        """To be called after every optimizer step."""
        ...

    def reference(self) -> AbstractContextManager[None]:
        """While active, the denoiser is as it was before training."""
        ...

    def averaged(self) -> AbstractContextManager[None]:
        """While active, the denoiser has the weights to show and to export: averages if any are kept."""
        ...

    def merge(self) -> None:
        """Leave the denoiser a plain model with the trained weights, in the dtype it came with; ends the adapter."""
        ...

    def export(self, folder: Path) -> Path:
        """Write those weights into `folder` for stock diffusers; returns what to load."""
        ...
