"""A double of a pipeline: the same parts and code, with some attributes replaced, and the pipeline left untouched."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from functools import cache
from typing import Any

import torch
from diffusers import DiffusionPipeline


def pipeline_proxy(pipeline: DiffusionPipeline, device: torch.device, **replaced: Any) -> Any:
    """A double of `pipeline` whose attributes in `replaced` are those given.

    What its methods assign, as `__call__` does with the guidance scale, stays with the double. It knows its execution
    `device`, which a pipeline looks for in all its modules anew at every call, and draws no progress bar: for a single
    denoising step these two would cost more than all the rest.
    """
    double: Any = object.__new__(_double(type(pipeline)))  # type: ignore[arg-type]  # classes are hashable
    double.__dict__.update(pipeline.__dict__, stand_in_device=device, **replaced)
    return double


@cache
def _double(kind: Any) -> Any:
    members = {
        "_execution_device": property(lambda self: self.__dict__["stand_in_device"]),
        "progress_bar": lambda self, iterable=None, total=None: _NoBar(iterable or ()),
        "__module__": kind.__module__,
    }
    return type(kind.__name__, (kind,), members)


class _NoBar(AbstractContextManager["_NoBar"]):
    """Stands where pipelines use tqdm: as a context, or around what is iterated."""

    def __init__(self, iterable: Iterable[Any]) -> None:
        self._iterable = iterable

    def __iter__(self) -> Any:
        return iter(self._iterable)

    def __exit__(self, *_: object) -> None:
        return None

    def update(self, count: int = 1) -> None:
        return None
