"""Rewards of one batch while the next is sampled."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from queue import SimpleQueue
from threading import Thread

from torch import Tensor

from stepcredit.errors import RewardError
from stepcredit.rewards import CheckedReward, Scores
from stepcredit.rewards.core.scores import join
from stepcredit.types import Prompt

GRACE_SECONDS = 2.0
"""How long the batch in hand may take when its scores are no longer wanted; after that it is left to itself."""


class RewardQueue:
    """The scores of an epoch's images, made in a thread of their own, one batch after the other.

    The thread is a daemon: a reward that hangs keeps neither an interrupt nor the end of the process waiting.

    Args:
        prompts: of the whole epoch, in the order of the images.
        overlap: score each batch as it comes; otherwise all of them in one call, when `scores` is asked for.
        timeout: seconds that `scores` waits for any one batch; None is for ever.

    Attributes:
        seconds: spent in the reward so far, much of it beside the sampling of later batches.
    """

    def __init__(
        self, reward: CheckedReward, prompts: Sequence[Prompt], *, overlap: bool = True, timeout: float | None = None
    ) -> None:
        self.seconds = 0.0
        self._reward = reward
        self._prompts = prompts
        self._overlap = overlap
        self._timeout = timeout
        self._thread = _DaemonThread("reward")
        self._batches: list[tuple[Future[Scores], int]] = []

    def __enter__(self) -> RewardQueue:
        return self

    def __exit__(self, *_: object) -> None:
        for batch, _count in self._batches:
            batch.cancel()
        self._thread.leave(GRACE_SECONDS)

    def add(self, images: Tensor, rows: slice) -> None:
        """Take in a finished batch: the images of `rows`. Raises at once what an earlier batch has failed with."""
        if not self._overlap:
            return
        for batch, _ in self._batches:
            if batch.done():
                batch.result()
        self._submit(images, self._prompts[rows])

    def scores(self, images: Tensor) -> Scores:
        """The scores of all `images`, waiting for those that are not there yet.

        Raises:
            RewardError: the reward fails, or a batch is not scored within `timeout` of the one before it.
        """
        if not self._overlap:
            self._submit(images, self._prompts)
        return join([self._result(batch, count) for batch, count in self._batches])

    def _submit(self, images: Tensor, prompts: Sequence[Prompt]) -> None:
        self._batches.append((self._thread.submit(lambda: self._score(images, prompts)), len(prompts)))

    def _result(self, batch: Future[Scores], count: int) -> Scores:
        try:
            return batch.result(self._timeout)
        except TimeoutError:
            if batch.done():
                raise
            raise RewardError(
                f"reward '{self._reward.name}' did not score {count} images within {self._timeout:g} s (reward.timeout)"
            ) from None

    def _score(self, images: Tensor, prompts: Sequence[Prompt]) -> Scores:
        started = time.perf_counter()
        try:
            return self._reward.scores(
                images, [prompt.text for prompt in prompts], [prompt.metadata for prompt in prompts]
            )
        finally:
            self.seconds += time.perf_counter() - started


class _DaemonThread:
    """Runs tasks in order. Unlike an executor's, its thread does not keep the process from ending."""

    def __init__(self, name: str) -> None:
        self._tasks: SimpleQueue[tuple[Future[Scores], Callable[[], Scores]] | None] = SimpleQueue()
        self._thread = Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def submit(self, task: Callable[[], Scores]) -> Future[Scores]:
        future: Future[Scores] = Future()
        self._tasks.put((future, task))
        return future

    def leave(self, seconds: float) -> None:
        """No more tasks; wait that long for those there are."""
        self._tasks.put(None)
        self._thread.join(seconds)

    def _work(self) -> None:
        while (entry := self._tasks.get()) is not None:
            future, task = entry
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(task())
                except BaseException as error:  # whatever it is, who waits for the scores is to get it
                    future.set_exception(error)
