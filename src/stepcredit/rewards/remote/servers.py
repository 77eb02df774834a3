"""Several servers of the same reward: which to ask next."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence


class Servers:
    """Goes round the servers, leaving out those that failed a moment ago. Any thread may ask.

    Args:
        addresses: at least one.
        clock: seconds.
    """

    def __init__(self, addresses: Sequence[str], clock: Callable[[], float] = time.monotonic) -> None:
        self.addresses = list(addresses)
        self._clock = clock
        self._resting = dict.fromkeys(self.addresses, 0.0)
        self._turn = 0
        self._lock = threading.Lock()

    def next(self) -> str:
        """The next server in turn that does not rest; if all do, the one whose rest ends first."""
        with self._lock:
            now, count = self._clock(), len(self.addresses)
            order = [self.addresses[(self._turn + step) % count] for step in range(count)]
            awake = [address for address in order if self._resting[address] <= now]
            chosen = awake[0] if awake else min(order, key=self._resting.__getitem__)
            self._turn = self.addresses.index(chosen) + 1
            return chosen

    def failed(self, address: str, rest: float) -> None:
        """Leave `address` out for `rest` seconds."""
        with self._lock:
            self._resting[address] = self._clock() + rest

    def answered(self, address: str) -> None:
        """It is well again."""
        with self._lock:
            self._resting[address] = 0.0

    def any_awake(self) -> bool:
        """Whether a server can be asked without waiting."""
        with self._lock:
            return any(until <= self._clock() for until in self._resting.values())
