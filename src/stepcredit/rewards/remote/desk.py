"""One served reward: a bounded number of requests, scored one at a time on a thread of its own."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from stepcredit.errors import InputError, RewardError
from stepcredit.rewards.core.checked import CheckedReward
from stepcredit.rewards.remote.limits import Limits
from stepcredit.rewards.remote.wire import Batch, PayloadError, decode

log = logging.getLogger(__name__)


class ScoringError(InputError):
    """The reward failed on a batch it was given; `status` is 422 where trying again cannot help, else 500."""

    def __init__(self, error: RewardError) -> None:
        super().__init__(str(error))
        deterministic = error.__cause__ is None or isinstance(error.__cause__, InputError | RewardError)
        self.status = 422 if deterministic else 500


class Desk:
    """Where requests for one reward wait. Belongs to one event loop."""

    def __init__(self, reward: CheckedReward, limits: Limits) -> None:
        self._reward = reward
        self._limits = limits
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"reward-{reward.name}")
        self.occupied = 0

    @contextmanager
    def seat(self) -> Iterator[None]:
        """A place in the queue. Raises PayloadError 503 if all are taken."""
        if self.occupied >= self._limits.queue:
            raise PayloadError(503, f"{self.occupied} requests are waiting already, come back later")
        self.occupied += 1
        try:
            yield
        finally:
            self.occupied -= 1

    async def score(self, body: bytes, content_type: str) -> list[float]:
        """Decode on any thread, then wait for the reward's own; the scores are float32 numbers, finite.

        Raises:
            PayloadError: the body is not a batch within the limits.
            ScoringError: the reward failed, or returned something other than one finite number per image.
        """
        batch = await asyncio.to_thread(decode, body, content_type, self._limits)
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._scores, batch)

    def close(self) -> None:
        """Finish the batch in hand and drop those that wait."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _scores(self, batch: Batch) -> list[float]:
        try:
            return self._reward(batch.images(), batch.prompts, batch.metadata).tolist()
        except RewardError as error:
            log.error("%s", error)
            raise ScoringError(error) from error
