"""One served reward: a bounded number of requests, scored one at a time on a separate thread."""

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
from stepcredit.utils.error_log import with_log, write_error_log

log = logging.getLogger(__name__)


class ScoringError(InputError):
    """The reward failed on a batch. `status` is 422 if a retry would fail too, else 500."""

    def __init__(self, error: RewardError) -> None:
        super().__init__(str(error))
        deterministic = error.__cause__ is None or isinstance(error.__cause__, InputError | RewardError)
        self.status = 422 if deterministic else 500


class RewardWorker:
    """Scores the requests for one reward in order of arrival. An object belongs to one event loop.

    Attributes:
        pending: requests that are being read, waiting or being scored.
    """

    def __init__(self, reward: CheckedReward, limits: Limits) -> None:
        self._reward = reward
        self._limits = limits
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"reward-{reward.name}")
        self.pending = 0

    @contextmanager
    def slot(self) -> Iterator[None]:
        """Occupy a place in the queue. Raises PayloadError 503 if the queue is full."""
        if self.pending >= self._limits.queue:
            raise PayloadError(503, f"the queue is full ({self.pending} requests): retry later")
        self.pending += 1
        try:
            yield
        finally:
            self.pending -= 1

    async def score(self, body: bytes, content_type: str) -> list[float]:
        """The scores of a request: finite float32 numbers.

        Raises:
            PayloadError: the body is not a batch within the limits.
            ScoringError: the reward failed, or did not return one finite number per image.
        """
        batch = await asyncio.to_thread(decode, body, content_type, self._limits)
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._scores, batch)

    def close(self) -> None:
        """Finish the current batch and drop the waiting ones."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _scores(self, batch: Batch) -> list[float]:
        try:
            return self._reward(batch.images(), batch.prompts, batch.metadata).tolist()
        except RewardError as error:
            log.error("%s", with_log(str(error), write_error_log(error)))
            raise ScoringError(error) from error
