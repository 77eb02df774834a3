"""Results by Idempotency-Key, so that a repeated request is answered without scoring it again."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable

from stepcredit.rewards.remote.wire import PayloadError

Key = tuple[str, str]
"""(name of the reward, Idempotency-Key)"""


class ResultCache:
    """Running requests, and the scores of the last `capacity` successful ones. Failures are not stored.

    A request continues if its client disconnects, so a client that lost its connection gets the scores when it retries.
    An object belongs to one event loop.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._entries: OrderedDict[Key, tuple[bytes, asyncio.Task[list[float]]]] = OrderedDict()

    async def scores(self, key: Key, digest: bytes, compute: Callable[[], Awaitable[list[float]]]) -> list[float]:
        """The result of `compute`, which is called only if `key` is new.

        Args:
            digest: of the request; every key belongs to one request.

        Raises:
            PayloadError: 422, the key was used for another request.
        """
        if key not in self._entries:
            task = asyncio.ensure_future(_awaited(compute))
            self._entries[key] = (digest, task)
            task.add_done_callback(lambda done: self._finish(key, done))
        known, task = self._entries[key]
        if known != digest:
            raise PayloadError(422, "this Idempotency-Key was used for another request: create a new key per request")
        return await asyncio.shield(task)

    def _finish(self, key: Key, task: asyncio.Task[list[float]]) -> None:
        if task.cancelled() or task.exception() is not None:
            del self._entries[key]
            return
        self._entries.move_to_end(key)
        done = [key for key, (_, task) in self._entries.items() if task.done()]
        for old in done[: max(0, len(done) - self._capacity)]:
            del self._entries[old]


async def _awaited(compute: Callable[[], Awaitable[list[float]]]) -> list[float]:
    return await compute()
