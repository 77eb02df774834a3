"""Ctrl-C and SIGTERM while something must be finished first."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def finished_first(told: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Let what is inside be finished before SIGINT or SIGTERM takes effect; the second one takes effect at once.

    What a signal does is for the handler that was there before. Signals that were ignored stay so; in other threads
    than the main one, which get no signals, nothing changes. If what is inside fails, its error is all that is heard.

    Args:
        told: called when the first signal has come, wherever the program is.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    waiting: list[int] = []

    def hold(number: int, _frame: object) -> None:
        if waiting:
            restore()
            signal.raise_signal(number)
            return
        waiting.append(number)
        with suppress(RuntimeError):  # it came in the middle of another print
            told()

    previous: dict[int, Any] = {
        number: handler
        for number in SIGNALS
        if (handler := signal.getsignal(number)) not in (signal.SIG_IGN, None)  # None: not set from Python
    }

    def restore() -> None:
        for number, handler in previous.items():
            signal.signal(number, handler)

    try:
        for number in previous:
            signal.signal(number, hold)
        yield
    finally:
        restore()
    if waiting:
        signal.raise_signal(waiting[0])


@contextmanager
def interruptible() -> Iterator[None]:
    """SIGTERM raises KeyboardInterrupt inside, as Ctrl-C does."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
