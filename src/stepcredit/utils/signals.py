"""Ctrl-C, SIGTERM and a closed terminal as one thing, which can be told to wait for a moment."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


@contextmanager
def finished_first(told: Callable[[], None] = lambda: None, *, at_any_rate: bool = False) -> Iterator[None]:
    """Let what is inside be finished before one of SIGNALS takes effect; the second one takes effect at once.

    What a signal does is for the handler that was there before. Signals that were ignored stay so; in other threads
    than the main one, which get no signals, nothing changes. If what is inside fails, its error is all that is heard.

    Args:
        told: called when the first signal has come, wherever the program is.
        at_any_rate: let the second one wait too, for what takes but a moment.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    waiting: list[int] = []

    def hold(number: int, _frame: object) -> None:
        if waiting and not at_any_rate:
            restore()
            signal.raise_signal(number)
            return
        waiting.append(number)
        with suppress(RuntimeError):  # it came in the middle of another print
            told()

    previous = _heeded(SIGNALS)

    def restore() -> None:
        _set(previous)

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
    """All of SIGNALS raise KeyboardInterrupt inside, as Ctrl-C does; those that were ignored stay so."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    previous = _heeded(number for number in SIGNALS if number != signal.SIGINT)
    try:
        for number in previous:
            signal.signal(number, interrupt)
        yield
    finally:
        _set(previous)


def _heeded(numbers: Iterable[int]) -> dict[int, Any]:
    """The handlers of those signals that are not ignored, nor handled by other than Python."""
    handlers = {number: signal.getsignal(number) for number in numbers}
    return {number: handler for number, handler in handlers.items() if handler not in (signal.SIG_IGN, None)}


def _set(handlers: Mapping[int, Any]) -> None:
    for number, handler in handlers.items():
        signal.signal(number, handler)
