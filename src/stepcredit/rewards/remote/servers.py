"""Which of several servers of the same reward receives the next request."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence


class Servers:
    """Round robin over the servers, except those that failed recently. Thread-safe.

    Args:
        addresses: at least one.
        clock: returns seconds.
    """

    def __init__(self, addresses: Sequence[str], clock: Callable[[], float] = time.monotonic) -> None:
        self.addresses = list(addresses)
        self._clock = clock
        self._paused_until = dict.fromkeys(self.addresses, 0.0)
        self._turn = 0
        self._lock = threading.Lock()

    def next(self) -> str:
        """The next server that is not paused; if all are, the one whose pause ends first."""
        with self._lock:
            now, count = self._clock(), len(self.addresses)
            order = [self.addresses[(self._turn + step) % count] for step in range(count)]
            available = [address for address in order if self._paused_until[address] <= now]
            chosen = available[0] if available else min(order, key=self._paused_until.__getitem__)
            self._turn = self.addresses.index(chosen) + 1
            return chosen

    def pause(self, address: str, seconds: float) -> None:
        """Skip `address` for `seconds` seconds, because a request to it failed."""
        with self._lock:
            self._paused_until[address] = self._clock() + seconds

    def restore(self, address: str) -> None:
        """End the pause of `address`, because a request to it succeeded."""
        with self._lock:
            self._paused_until[address] = 0.0

    def any_available(self) -> bool:
        """Whether at least one server is not paused."""
        with self._lock:
            return any(until <= self._clock() for until in self._paused_until.values())
