"""Rewards of one batch while the next is sampled."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from torch import Tensor

from stepcredit.rewards import CheckedReward, Scores
from stepcredit.rewards.scores import join
from stepcredit.types import Prompt


class Scoring:
    """The scores of an epoch's images, made in a thread of their own, one batch after the other.

    Args:
        prompts: of the whole epoch, in the order of the images.
        overlap: score each batch as it comes; otherwise all of them in one call, when `scores` is asked for.

    Attributes:
        seconds: spent in the reward so far, much of it beside the sampling of later batches.
    """

    def __init__(self, reward: CheckedReward, prompts: Sequence[Prompt], *, overlap: bool = True) -> None:
        self.seconds = 0.0
        self._reward = reward
        self._prompts = prompts
        self._overlap = overlap
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="reward")
        self._batches: list[Future[Scores]] = []

    def __enter__(self) -> Scoring:
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown(cancel_futures=True)

    def add(self, images: Tensor, rows: slice) -> None:
        """Take in a finished batch: the images of `rows`. Raises at once what an earlier batch has failed with."""
        if not self._overlap:
            return
        for batch in self._batches:
            if batch.done():
                batch.result()
        self._batches.append(self._thread.submit(self._score, images, self._prompts[rows]))

    def scores(self, images: Tensor) -> Scores:
        """The scores of all `images`, waiting for those that are not there yet; RewardError if the reward fails."""
        if not self._overlap:
            self._batches = [self._thread.submit(self._score, images, self._prompts)]
        return join([batch.result() for batch in self._batches])

    def _score(self, images: Tensor, prompts: Sequence[Prompt]) -> Scores:
        started = time.perf_counter()
        try:
            return self._reward.scores(
                images, [prompt.text for prompt in prompts], [prompt.metadata for prompt in prompts]
            )
        finally:
            self.seconds += time.perf_counter() - started
