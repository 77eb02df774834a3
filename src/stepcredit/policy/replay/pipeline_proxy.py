"""A proxy for a pipeline: it runs the pipeline's code on the same components, and the pipeline itself never changes."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from functools import cache
from typing import Any

import torch
from diffusers import DiffusionPipeline


def pipeline_proxy(pipeline: DiffusionPipeline, device: torch.device) -> Any:
    """A shallow copy of `pipeline`, of a subclass of its class.

    Attributes set on the proxy, by the caller or by the pipeline's own methods, stay on the proxy. Two things are
    replaced because they would cost more than the rest of a single-step replay: `_execution_device` is `device`, where
    a pipeline searches all its modules at every call, and the progress bar does nothing.
    """
    proxy: Any = object.__new__(_proxy_class(type(pipeline)))  # type: ignore[arg-type]  # classes are hashable
    proxy.__dict__.update(pipeline.__dict__, proxy_device=device)
    return proxy


@cache
def _proxy_class(kind: Any) -> Any:
    members = {
        "_execution_device": property(lambda self: self.proxy_device),
        "progress_bar": lambda self, iterable=None, total=None: _NoProgressBar(iterable or ()),
        "__module__": kind.__module__,
        "__setattr__": object.__setattr__,  # diffusers' own also writes to the pipeline's configuration
    }
    return type(kind.__name__, (kind,), members)


class _NoProgressBar(AbstractContextManager["_NoProgressBar"]):
    """Replaces tqdm, which pipelines use as a context manager or around an iterable."""

    def __init__(self, iterable: Iterable[Any]) -> None:
        self._iterable = iterable

    def __iter__(self) -> Any:
        return iter(self._iterable)

    def __exit__(self, *_: object) -> None:
        return None

    def update(self, count: int = 1) -> None:
        return None
