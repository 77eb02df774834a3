"""Requests with equal keys are computed once."""

from __future__ import annotations

import asyncio

import pytest

from stepcredit.rewards.remote.results import ResultCache
from stepcredit.rewards.remote.wire import PayloadError


class Work:
    """Counts its calls; waits for `gate`."""

    def __init__(self, score: float = 1.0, error: Exception | None = None) -> None:
        self.calls, self.score, self.error = 0, score, error
        self.gate = asyncio.Event()
        self.gate.set()

    async def __call__(self) -> list[float]:
        self.calls += 1
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        return [self.score]


def key(name: str) -> tuple[str, str]:
    return "reward", name


def test_a_finished_request_is_not_repeated() -> None:
    async def main() -> None:
        cache, work = ResultCache(4), Work()
        assert [await cache.scores(key("a"), b"1", work) for _ in range(3)] == [[1.0]] * 3
        assert work.calls == 1

    asyncio.run(main())


def test_a_running_request_is_joined() -> None:
    async def main() -> None:
        cache, work = ResultCache(4), Work()
        work.gate.clear()
        clients = [asyncio.ensure_future(cache.scores(key("a"), b"1", work)) for _ in range(3)]
        await asyncio.sleep(0)
        work.gate.set()
        assert await asyncio.gather(*clients) == [[1.0]] * 3
        assert work.calls == 1

    asyncio.run(main())


def test_a_request_continues_without_its_client() -> None:
    async def main() -> None:
        cache, work = ResultCache(4), Work()
        work.gate.clear()
        client = asyncio.ensure_future(cache.scores(key("a"), b"1", work))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        client.cancel()
        with pytest.raises(asyncio.CancelledError):
            await client
        work.gate.set()
        assert await cache.scores(key("a"), b"1", work) == [1.0]
        assert work.calls == 1

    asyncio.run(main())


def test_failures_are_not_stored() -> None:
    async def main() -> None:
        cache, failing, working = ResultCache(4), Work(error=RuntimeError("no")), Work()
        with pytest.raises(RuntimeError, match="no"):
            await cache.scores(key("a"), b"1", failing)
        assert await cache.scores(key("a"), b"1", working) == [1.0]
        assert (failing.calls, working.calls) == (1, 1)

    asyncio.run(main())


def test_a_key_belongs_to_one_request_of_one_reward() -> None:
    async def main() -> None:
        cache, first, other = ResultCache(4), Work(1.0), Work(2.0)
        await cache.scores(("warmth", "a"), b"1", first)
        assert await cache.scores(("jpeg", "a"), b"2", other) == [2.0]
        with pytest.raises(PayloadError, match="was used for another request") as caught:
            await cache.scores(("warmth", "a"), b"2", other)
        assert caught.value.status == 422 and other.calls == 1

    asyncio.run(main())


def test_capacity() -> None:
    async def main() -> None:
        cache, work = ResultCache(4), Work()
        for _ in range(3):
            for name in "abcd":
                await cache.scores(key(name), b"", work)
            await asyncio.sleep(0)
        assert work.calls == 4

    asyncio.run(main())


def test_the_oldest_finished_results_are_dropped() -> None:
    async def main() -> None:
        cache, slow, quick = ResultCache(2), Work(0.0), Work(1.0)
        slow.gate.clear()
        waiting = asyncio.ensure_future(cache.scores(key("slow"), b"", slow))
        for name in "abc":
            await cache.scores(key(name), b"", quick)
        await asyncio.sleep(0)
        for name, calls in (("b", 3), ("c", 3), ("a", 4)):
            await cache.scores(key(name), b"", quick)
            assert quick.calls == calls, name
        slow.gate.set()
        assert await waiting == [0.0] == await cache.scores(key("slow"), b"", slow)
        assert slow.calls == 1

    asyncio.run(main())
