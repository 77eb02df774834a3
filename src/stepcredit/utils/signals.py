"""Handle Ctrl-C, SIGTERM and SIGHUP in the same way, and delay them during critical sections."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


@contextmanager
def finished_first(notify: Callable[[], None] = lambda: None, *, delay_all: bool = False) -> Iterator[None]:
    """Delay the first of SIGNALS until the block has finished. A second signal takes effect at once.

    A signal is then passed to the handler that was installed before. Ignored signals stay ignored. Outside the main
    thread, which alone receives signals, nothing changes. If the block raises, the delayed signal is dropped.

    Args:
        notify: called when the first signal arrives, anywhere in the block.
        delay_all: delay the second signal too. Use it for short blocks only.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    waiting: list[int] = []

    def hold(number: int, _frame: object) -> None:
        if waiting and not delay_all:
            restore()
            signal.raise_signal(number)
            return
        waiting.append(number)
        with suppress(RuntimeError):  # the signal interrupted another print
            notify()

    previous = _active_handlers(SIGNALS)

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
    """Make all of SIGNALS raise KeyboardInterrupt in the block, as Ctrl-C does.

    A signal that is ignored, or that the program handles itself, stays as it is. Outside the main thread, which alone
    receives signals, nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    previous = {number: signal.SIG_DFL for number in SIGNALS if signal.getsignal(number) is signal.SIG_DFL}
    try:
        for number in previous:
            signal.signal(number, interrupt)
        yield
    finally:
        _set(previous)


def _active_handlers(numbers: Iterable[int]) -> dict[int, Any]:
    """The handlers of the signals that are not ignored and have a Python handler."""
    handlers = {number: signal.getsignal(number) for number in numbers}
    return {number: handler for number, handler in handlers.items() if handler not in (signal.SIG_IGN, None)}


def _set(handlers: Mapping[int, Any]) -> None:
    for number, handler in handlers.items():
        signal.signal(number, handler)
