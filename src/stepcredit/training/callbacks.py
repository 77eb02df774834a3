"""Functions of the user that run after every epoch and can stop the training."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, overload

from torch import Tensor

from stepcredit.errors import StepcreditError
from stepcredit.utils.global_state import settings_restored

if TYPE_CHECKING:
    from PIL import Image


class StopTraining(Exception):
    """Raise this in a callback to end the run after the current epoch.

    The run then saves a checkpoint, draws a sample grid and exports the weights, as at its regular end.
    """


@dataclass(frozen=True)
class EpochImages:
    """The images of rank 0 that an epoch was trained on.

    An index gives a PIL image, a slice a list of them. They are rendered on access.

    Attributes:
        pixels: (N, 3, H, W) float32 in [0, 1].
        prompts: N texts.
        scores: (N,) rewards.
    """

    pixels: Tensor
    prompts: Sequence[str]
    scores: Tensor

    def __len__(self) -> int:
        return len(self.prompts)

    @overload
    def __getitem__(self, index: int) -> Image.Image: ...

    @overload
    def __getitem__(self, index: slice) -> list[Image.Image]: ...

    def __getitem__(self, index: int | slice) -> Image.Image | list[Image.Image]:
        from stepcredit.rewards.vision.images import to_pil

        if isinstance(index, slice):
            return to_pil(self.pixels[index].cpu())
        return to_pil(self.pixels[index].unsqueeze(0).cpu())[0]


Callback = Callable[[Mapping[str, Any], EpochImages], object]
"""Called with the epoch's row of metrics.jsonl and its images. The return value is ignored."""


def run_callbacks(callbacks: Iterable[Callback], metrics: Mapping[str, Any], images: EpochImages) -> bool:
    """Call each callback with a copy of the metrics; return whether any of them asked to stop.

    Settings that a callback changes are restored, see `settings_restored`.
    """
    stop = False
    for callback in callbacks:
        name = getattr(callback, "__name__", type(callback).__name__)
        try:
            with settings_restored(f"callback {name}"):
                callback(copy.deepcopy(metrics), images)
        except StopTraining:
            stop = True
        except OSError as error:  # otherwise taken for a run directory that cannot be written
            raise StepcreditError(f"callback {name} raised {type(error).__name__}: {error}") from error
    return stop
