"""Ctrl-C, SIGTERM and a closed terminal as one thing, which can be told to wait for a moment."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


class Interrupts:
    """While active, each of these signals raises KeyboardInterrupt. A context manager."""

    def __init__(self) -> None:
        self._previous: dict[int, Any] = {}
        self._held = False
        self._waiting = False

    def __enter__(self) -> Interrupts:
        self._previous = {number: signal.signal(number, self._interrupt) for number in _SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    @contextmanager
    def held(self) -> Iterator[None]:
        """A signal that comes inside is raised at the end: nothing is left half done."""
        self._held = True
        try:
            yield
        finally:
            self._held = False
            if self._waiting:
                self._waiting = False
                raise KeyboardInterrupt

    def _interrupt(self, *_: object) -> None:
        if self._held:
            self._waiting = True
        else:
            raise KeyboardInterrupt
