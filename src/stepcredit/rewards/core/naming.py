"""What metrics, reports and errors call a reward that was passed as a Python object."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection
from typing import Any


def object_name(reward: Callable[..., Any], taken: Collection[str] = ()) -> str:
    """A function's qualified name without enclosing functions (`score`, `Scorer.score`, `<lambda>`), or the class.

    A name in `taken`, which belongs to another reward, gets the module in front: `my_module:warmth`.

    >>> object_name(lambda images: images.mean((1, 2, 3)))
    '<lambda>'
    """
    described = reward.func if isinstance(reward, functools.partial) else reward
    if not inspect.isroutine(described):
        described = type(described)
    name = described.__qualname__.rpartition("<locals>.")[2]
    return f"{described.__module__}:{name}" if name in taken else name
