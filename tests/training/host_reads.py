"""Where a program would wait for an accelerator, found out on a CPU."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_READING = ("_local_scalar_dense", "nonzero", "is_nonzero", "masked_select", "equal", "unique")
"""Operations that the host waits for. The first is what item(), bool() and an index of one number come to."""

_COPYING = (Tensor.tolist, Tensor.cpu, Tensor.numpy)


class HostReads(TorchDispatchMode):
    """Notes when the host reads a tensor of the device: of `weights`, or computed from one.

    On a CPU nothing says which tensors would be there, so that it is followed from the operands to the results. What is
    on the CPU in any case, such as the schedule and the numbers of rows and steps, may be read.

    Attributes:
        found: the names of what read.
    """

    def __init__(self, weights: Iterable[Tensor]) -> None:
        super().__init__()
        self.found: list[str] = []
        self._there: weakref.WeakSet[Any] = weakref.WeakSet(weight.untyped_storage() for weight in weights)
        self._copies = _Copies(self)

    def __enter__(self) -> Any:
        self._copies.__enter__()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._copies.__exit__(*error)

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        reached = self.touches((args, kwargs))
        name = function._schema.name.removeprefix("aten::")
        masks = name.startswith("index") and any(leaf.dtype == torch.bool for leaf in _tensors(args[1:2]))
        if reached and (name in _READING or masks):
            self.found.append(name)
        result = function(*args, **(kwargs or {}))
        if reached:
            for leaf in _tensors(result):
                self._there.add(leaf.untyped_storage())
        return result

    def touches(self, values: Any) -> bool:
        return any(leaf.untyped_storage() in self._there for leaf in _tensors(values))


class _Copies(TorchFunctionMode):
    """Tells of copies to the host, which on a CPU are no operations."""

    def __init__(self, reads: HostReads) -> None:
        super().__init__()
        self._reads = reads

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function in _COPYING and self._reads.touches(args):
            self._reads.found.append(function.__name__)
        return function(*args, **(kwargs or {}))


def _tensors(values: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]
