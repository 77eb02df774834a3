"""What goes wrong, put where it does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest
import torch

Injection = Callable[[], AbstractContextManager[None]]
CUDA = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
CPU = RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: not enough memory: you tried to allocate")


@contextmanager
def patched(owner: Any, name: str, wrap: Callable[[Callable[..., Any]], Callable[..., Any]]) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, wrap(getattr(owner, name)))
        yield


def at_calls(owner: Any, name: str, calls: range, change: Callable[[Any], Any]) -> AbstractContextManager[None]:
    """The calls of `name` numbered in `calls`, from 1, return, or raise, what `change` makes of their result."""

    def wrap(original: Callable[..., Any]) -> Callable[..., Any]:
        count = 0

        def called(*arguments: Any, **named: Any) -> Any:
            nonlocal count
            count += 1
            result = original(*arguments, **named)
            return change(result) if count in calls else result

        return called

    return patched(owner, name, wrap)


def raising(error: BaseException) -> Callable[[Any], Any]:
    def change(_: Any) -> Any:
        raise error

    return change
