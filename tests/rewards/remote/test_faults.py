"""Concurrent clients of an unreliable server."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from tests.rewards.remote.faults import KINDS, Faulty
from tests.rewards.remote.live import TOKEN, Counting, pictures, served
from torch import Tensor

from stepcredit.rewards.remote.app import create_app
from stepcredit.rewards.remote.client import RemoteOptions, RemoteReward
from stepcredit.rewards.remote.servers import Servers
from stepcredit.rewards.remote.wire import Batch

CLIENTS = 8


@pytest.mark.parametrize(
    ("requests", "share"), [(100, 0.1), pytest.param(1000, 0.05, marks=pytest.mark.slow)], ids=["100", "1000"]
)
def test_requests_are_neither_lost_nor_scored_twice(requests: int, share: float) -> None:
    reward = Counting()
    faulty = Faulty(create_app({"sum": reward}, TOKEN), share)
    options = RemoteOptions(timeout=0.5, retries=20, backoff=0.001, concurrency=2, batch=1)
    images = pictures(requests)
    per_client = -(-requests // CLIENTS)

    def client(address: str, start: int) -> Tensor:
        part = images[start : start + per_client]
        prompts = [f"image {start + row}" for row in range(len(part))]
        return RemoteReward("sum", Servers([address]), options, TOKEN)(part, prompts, [{}] * len(part))

    with served(faulty) as address, ThreadPoolExecutor(CLIENTS) as threads:
        results = threads.map(lambda start: client(address, start), range(0, requests, per_client))
        scores = torch.cat(list(results))

    assert torch.equal(scores, Counting()(Batch.of(images, [], []).images(), [], []))
    assert reward.executions == {f"image {number}": 1 for number in range(requests)}
    assert set(faulty.injected) == set(KINDS), faulty.injected
    assert faulty.injected.total() >= 0.6 * share * requests
    assert faulty.requests >= requests + faulty.injected.total()
