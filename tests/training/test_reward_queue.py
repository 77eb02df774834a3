"""Batches are scored in order, beside the sampling of the next, and failures come out where they can be handled."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from stepcredit.errors import RewardError
from stepcredit.rewards import checked
from stepcredit.training.reward_queue import RewardQueue
from stepcredit.types import Prompt

PROMPTS = [Prompt(f"prompt {number}", {"number": number}) for number in range(5)]
IMAGES = torch.arange(5.0).view(5, 1, 1, 1).expand(5, 3, 2, 2) / 10


class Judge:
    """Scores an image by its brightness, keeps what it was asked, and can be told to wait or to fail."""

    def __init__(self, fails_at: int | None = None) -> None:
        self.asked: list[list[str]] = []
        self.fails_at = fails_at
        self.may_begin = threading.Event()
        self.may_begin.set()
        self.threads: set[str] = set()

    def __call__(self, images: Tensor, prompts: Sequence[str], metadata: Sequence[dict[str, Any]]) -> Tensor:
        assert self.may_begin.wait(10)
        assert [f"prompt {entry['number']}" for entry in metadata] == list(prompts)
        self.asked.append(list(prompts))
        self.threads.add(threading.current_thread().name)
        if len(self.asked) - 1 == self.fails_at:
            raise ValueError("no more")
        return images.mean((1, 2, 3))


def test_batches_are_joined_in_order() -> None:
    judge = Judge()
    with RewardQueue(checked(judge, "judge"), PROMPTS) as reward_queue:
        for rows in (slice(0, 2), slice(2, 4), slice(4, 5)):
            reward_queue.add(IMAGES[rows], rows)
        scores = reward_queue.scores(IMAGES)
    torch.testing.assert_close(scores.values, torch.arange(5.0) / 10)
    assert judge.asked == [["prompt 0", "prompt 1"], ["prompt 2", "prompt 3"], ["prompt 4"]]
    assert reward_queue.seconds > 0


def test_adding_a_batch_does_not_wait_for_the_previous_one() -> None:
    judge = Judge()
    judge.may_begin.clear()
    with RewardQueue(checked(judge, "judge"), PROMPTS) as reward_queue:
        reward_queue.add(IMAGES[:3], slice(0, 3))
        reward_queue.add(IMAGES[3:], slice(3, 5))
        assert judge.asked == []
        judge.may_begin.set()
        assert len(reward_queue.scores(IMAGES).values) == 5
    assert judge.threads == {"reward"}


def test_without_overlap_all_images_are_one_call() -> None:
    judge = Judge()
    with RewardQueue(checked(judge, "judge"), PROMPTS, overlap=False) as reward_queue:
        reward_queue.add(IMAGES[:3], slice(0, 3))
        reward_queue.add(IMAGES[3:], slice(3, 5))
        torch.testing.assert_close(reward_queue.scores(IMAGES).values, torch.arange(5.0) / 10)
    assert judge.asked == [[prompt.text for prompt in PROMPTS]]


def test_a_failure_ends_the_epoch_at_the_next_batch() -> None:
    judge = Judge(fails_at=0)
    with RewardQueue(checked(judge, "judge"), PROMPTS) as reward_queue:
        reward_queue.add(IMAGES[:2], slice(0, 2))
        with pytest.raises(RewardError, match="reward 'judge' raised ValueError"):
            reward_queue.scores(IMAGES)
        with pytest.raises(RewardError):
            reward_queue.add(IMAGES[2:], slice(2, 5))
    assert len(judge.asked) == 1


def test_closing_the_queue_drops_batches_that_have_not_started() -> None:
    judge = Judge()
    judge.may_begin.clear()
    reward_queue = RewardQueue(checked(judge, "judge"), PROMPTS)
    for number in range(5):
        reward_queue.add(IMAGES[number : number + 1], slice(number, number + 1))
    leaving = threading.Thread(target=reward_queue.__exit__, args=(None, None, None))
    leaving.start()
    while not reward_queue._batches[-1][0].cancelled():
        assert leaving.is_alive()
    judge.may_begin.set()
    leaving.join()
    assert len(judge.asked) <= 1


def test_a_reward_that_hangs_is_an_error_after_the_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stepcredit.training.reward_queue.GRACE_SECONDS", 0.0)
    judge = Judge()
    judge.may_begin.clear()
    with RewardQueue(checked(judge, "judge"), PROMPTS, timeout=0.01) as reward_queue:
        reward_queue.add(IMAGES[:3], slice(0, 3))
        with pytest.raises(RewardError, match=r"^reward 'judge' did not score 3 images within 0.01 s \("):
            reward_queue.scores(IMAGES)
    judge.may_begin.set()


def test_a_timeout_error_of_the_reward_itself_is_passed_on() -> None:
    def late(*_: Any) -> Tensor:
        raise TimeoutError("the server is slow")

    with RewardQueue(checked(late, "late"), PROMPTS, timeout=10) as reward_queue:
        reward_queue.add(IMAGES, slice(0, 5))
        with pytest.raises(RewardError, match="is slow"):
            reward_queue.scores(IMAGES)
