"""The interface of adapters."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from torch import Tensor, nn


class Adapter(Protocol):
    """The trained part of a pipeline's denoiser."""

    def parameters(self) -> list[nn.Parameter]:
        """The trained parameters, all of them float32."""
        ...

    def state_dict(self) -> dict[str, Tensor]:
        """The trained tensors by name."""
        ...

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Load what `state_dict` returned; InputError if names or shapes do not match."""
        ...

    def stepped(self) -> None:
        """Called after every optimizer step."""
        ...

    def reference(self) -> AbstractContextManager[None]:
        """Context in which the denoiser is as it was before training."""
        ...

    def averaged(self) -> AbstractContextManager[None]:
        """Context in which the denoiser has the weights to sample from and export: averages, if there are any."""
        ...

    def merge(self) -> None:
        """Make the denoiser a plain model with the trained weights in its original dtype. Ends the adapter."""
        ...

    def export(self, folder: Path) -> Path:
        """Write the `averaged` weights into `folder` for stock diffusers; returns the path to load."""
        ...
