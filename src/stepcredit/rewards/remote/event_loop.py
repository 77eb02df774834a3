"""Run a coroutine from synchronous code: on the main thread, on another, or inside a running event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

Result = TypeVar("Result")


def run_in_thread(coroutine: Coroutine[Any, Any, Result]) -> Result:
    """The result of `coroutine`, run on an event loop in a new thread. Ctrl-C cancels the coroutine."""
    outcome: Future[Result] = Future()
    cancellation = _Cancellation()
    threading.Thread(
        target=_run, args=(coroutine, outcome, cancellation), name="stepcredit-client", daemon=True
    ).start()
    try:
        return outcome.result()
    except BaseException:  # KeyboardInterrupt above all: the thread must not outlive this call
        cancellation.cancel()
        raise


class _Cancellation:
    """Cancels a task from another thread, whether it has started or not."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requested = False
        self._task: tuple[asyncio.AbstractEventLoop, asyncio.Task[Any]] | None = None

    def cancel(self) -> None:
        with self._lock:
            self._requested = True
            if self._task is not None:
                loop, task = self._task
                loop.call_soon_threadsafe(task.cancel)

    def start(self, task: asyncio.Task[Any]) -> None:
        with self._lock:
            self._task = (asyncio.get_running_loop(), task)
            if self._requested:
                task.cancel()

    def finish(self) -> None:
        with self._lock:
            self._task = None


def _run(coroutine: Coroutine[Any, Any, Result], outcome: Future[Result], cancellation: _Cancellation) -> None:
    async def main() -> Result:
        task = asyncio.ensure_future(coroutine)
        cancellation.start(task)
        try:
            return await task
        finally:
            cancellation.finish()

    try:
        outcome.set_result(asyncio.run(main()))
    except BaseException as error:  # re-raised by outcome.result() in the calling thread
        outcome.set_exception(error)
