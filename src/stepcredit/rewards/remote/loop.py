"""Asynchronous work done for a caller that is not: on the main thread, on another, or inside a running event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

Result = TypeVar("Result")


def run_to_end(work: Coroutine[Any, Any, Result]) -> Result:
    """What `work` returns or raises, run on an event loop and a thread of its own.

    Ctrl-C while waiting cancels the work and is raised on.
    """
    outcome: Future[Result] = Future()
    stop = _Stop()
    threading.Thread(target=_run, args=(work, outcome, stop), name="stepcredit-client", daemon=True).start()
    try:
        return outcome.result()
    except BaseException:  # Ctrl-C above all: the thread is to end with its caller
        stop.now()
        raise


class _Stop:
    """Cancels a task from another thread, before or after it has begun."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._wanted = False
        self._task: tuple[asyncio.AbstractEventLoop, asyncio.Task[Any]] | None = None

    def now(self) -> None:
        with self._lock:
            self._wanted = True
            if self._task is not None:
                loop, task = self._task
                loop.call_soon_threadsafe(task.cancel)

    def begin(self, task: asyncio.Task[Any]) -> None:
        with self._lock:
            self._task = (asyncio.get_running_loop(), task)
            if self._wanted:
                task.cancel()

    def end(self) -> None:
        with self._lock:
            self._task = None


def _run(work: Coroutine[Any, Any, Result], outcome: Future[Result], stop: _Stop) -> None:
    async def main() -> Result:
        task = asyncio.ensure_future(work)
        stop.begin(task)
        try:
            return await task
        finally:
            stop.end()

    try:
        outcome.set_result(asyncio.run(main()))
    except BaseException as error:  # the caller gets it, from the future
        outcome.set_exception(error)
