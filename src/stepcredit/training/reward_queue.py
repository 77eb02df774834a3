"""Scores batches of images in a thread while the next batch is sampled."""

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
"""How long to wait for the current batch when the run stops. After that the thread is abandoned."""


class RewardQueue:
    """Scores the images of an epoch in a thread of its own, one batch after the other.

    The thread is a daemon, so a reward that hangs delays neither Ctrl-C nor the end of the process.

    Args:
        prompts: the prompts of the whole epoch, in the order of the images.
        overlap: score each batch as soon as it arrives. Otherwise score all images in one call, in `scores`.
        timeout: seconds that `scores` waits for one batch; None means no limit.

    Attributes:
        seconds: time spent in the reward so far. Most of it overlaps the sampling of later batches.
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
        """Queue a finished batch, the images of `rows`. Raises the error of an earlier batch that failed."""
        if not self._overlap:
            return
        for batch, _ in self._batches:
            if batch.done():
                batch.result()
        self._submit(images, self._prompts[rows])

    def scores(self, images: Tensor) -> Scores:
        """The scores of all `images`. Waits for the batches that are not scored yet.

        Raises:
            RewardError: the reward failed, or took longer than `timeout` for one batch.
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
    """Runs tasks in order in a daemon thread; the threads of an executor would keep the process alive."""

    def __init__(self, name: str) -> None:
        self._tasks: SimpleQueue[tuple[Future[Scores], Callable[[], Scores]] | None] = SimpleQueue()
        self._thread = Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def submit(self, task: Callable[[], Scores]) -> Future[Scores]:
        future: Future[Scores] = Future()
        self._tasks.put((future, task))
        return future

    def leave(self, seconds: float) -> None:
        """Accept no more tasks and wait up to `seconds` for the pending ones."""
        self._tasks.put(None)
        self._thread.join(seconds)

    def _work(self) -> None:
        while (entry := self._tasks.get()) is not None:
            future, task = entry
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(task())
                except BaseException as error:  # raised again in the thread that waits for the scores
                    future.set_exception(error)
