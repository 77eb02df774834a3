"""How many bytes of tensors are alive, and of this process in memory."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import psutil
import torch
from torch import Tensor
from torch._subclasses import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def live_bytes() -> int:
    """Bytes of all tensors that are reachable. Those that compiling leaves behind to reason with hold none."""
    gc.collect()
    storages = {}
    for value in gc.get_objects():
        kind = type(value)
        if issubclass(kind, Tensor) and not issubclass(kind, FakeTensor) and value.layout == torch.strided:
            storage = value.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


def resident_bytes() -> int:
    """Bytes of this process that are in memory."""
    return int(psutil.Process().memory_info().rss)


class Peak(TorchDispatchMode):
    """The most bytes that were alive at a time, of the tensors made while it is active.

    Attributes:
        most: that number so far.
    """

    def __init__(self) -> None:
        super().__init__()
        self.most = 0
        self._alive = 0
        self._known: dict[int, Any] = {}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {id(leaf.untyped_storage()) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        result = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and id(leaf.untyped_storage()) not in given:
                self._add(leaf.untyped_storage())
        return result

    def _add(self, storage: Any) -> None:
        place, size = id(storage), storage.nbytes()
        if place in self._known:
            return
        self._known[place] = weakref.finalize(storage, self._gone, place, size)
        self._alive += size
        self.most = max(self.most, self._alive)

    def _gone(self, place: int, size: int) -> None:
        del self._known[place]
        self._alive -= size
