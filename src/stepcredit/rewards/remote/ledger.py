"""Requests by their Idempotency-Key: one that comes again is answered from the first, not worked on twice."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable

from stepcredit.rewards.remote.wire import PayloadError

Key = tuple[str, str]
"""(name of the reward, Idempotency-Key)"""


class Ledger:
    """Requests under way, and the scores of the last `remembered` that succeeded. Failures are forgotten at once.

    It belongs to one event loop. The work goes on when whoever asked is gone, so that a client whose connection broke
    finds the scores when it asks again.
    """

    def __init__(self, remembered: int) -> None:
        self._remembered = remembered
        self._entries: OrderedDict[Key, tuple[bytes, asyncio.Task[list[float]]]] = OrderedDict()

    async def scores(self, key: Key, digest: bytes, work: Callable[[], Awaitable[list[float]]]) -> list[float]:
        """What `work` gives, or gave when the same key asked first.

        Args:
            digest: of the request; a key may not be used for another.

        Raises:
            PayloadError: 422, the key was used for another request.
        """
        if key not in self._entries:
            task = asyncio.ensure_future(_awaited(work))
            self._entries[key] = (digest, task)
            task.add_done_callback(lambda done: self._finished(key, done))
        known, task = self._entries[key]
        if known != digest:
            raise PayloadError(422, "this Idempotency-Key was used for another request: make a new one for each")
        return await asyncio.shield(task)

    def _finished(self, key: Key, task: asyncio.Task[list[float]]) -> None:
        if task.cancelled() or task.exception() is not None:
            del self._entries[key]
            return
        self._entries.move_to_end(key)
        done = [key for key, (_, task) in self._entries.items() if task.done()]
        for old in done[: max(0, len(done) - self._remembered)]:
            del self._entries[old]


async def _awaited(work: Callable[[], Awaitable[list[float]]]) -> list[float]:
    return await work()
