"""One key, one piece of work."""

from __future__ import annotations

import asyncio

import pytest

from stepcredit.rewards.remote.ledger import Ledger
from stepcredit.rewards.remote.wire import PayloadError


class Work:
    """Counts how often it is begun; waits for `gate`."""

    def __init__(self, score: float = 1.0, error: Exception | None = None) -> None:
        self.begun, self.score, self.error = 0, score, error
        self.gate = asyncio.Event()
        self.gate.set()

    async def __call__(self) -> list[float]:
        self.begun += 1
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        return [self.score]


def key(name: str) -> tuple[str, str]:
    return "reward", name


def test_a_finished_request_is_answered_again_and_not_done_again() -> None:
    async def main() -> None:
        ledger, work = Ledger(4), Work()
        assert [await ledger.scores(key("a"), b"1", work) for _ in range(3)] == [[1.0]] * 3
        assert work.begun == 1

    asyncio.run(main())


def test_a_request_under_way_is_joined() -> None:
    async def main() -> None:
        ledger, work = Ledger(4), Work()
        work.gate.clear()
        asked = [asyncio.ensure_future(ledger.scores(key("a"), b"1", work)) for _ in range(3)]
        await asyncio.sleep(0)
        work.gate.set()
        assert await asyncio.gather(*asked) == [[1.0]] * 3
        assert work.begun == 1

    asyncio.run(main())


def test_work_goes_on_when_the_one_who_asked_is_gone() -> None:
    async def main() -> None:
        ledger, work = Ledger(4), Work()
        work.gate.clear()
        asked = asyncio.ensure_future(ledger.scores(key("a"), b"1", work))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
        work.gate.set()
        assert await ledger.scores(key("a"), b"1", work) == [1.0]
        assert work.begun == 1

    asyncio.run(main())


def test_a_failure_is_forgotten() -> None:
    async def main() -> None:
        ledger, failing, mended = Ledger(4), Work(error=RuntimeError("no")), Work()
        with pytest.raises(RuntimeError, match="no"):
            await ledger.scores(key("a"), b"1", failing)
        assert await ledger.scores(key("a"), b"1", mended) == [1.0]
        assert (failing.begun, mended.begun) == (1, 1)

    asyncio.run(main())


def test_a_key_is_for_one_request_of_one_reward() -> None:
    async def main() -> None:
        ledger, first, other = Ledger(4), Work(1.0), Work(2.0)
        await ledger.scores(("warmth", "a"), b"1", first)
        assert await ledger.scores(("jpeg", "a"), b"2", other) == [2.0]
        with pytest.raises(PayloadError, match="was used for another request") as caught:
            await ledger.scores(("warmth", "a"), b"2", other)
        assert caught.value.status == 422 and other.begun == 1

    asyncio.run(main())


def test_as_many_as_it_remembers_are_remembered() -> None:
    async def main() -> None:
        ledger, work = Ledger(4), Work()
        for _ in range(3):
            for name in "abcd":
                await ledger.scores(key(name), b"", work)
            await asyncio.sleep(0)
        assert work.begun == 4

    asyncio.run(main())


def test_the_oldest_finished_are_forgotten_and_none_under_way() -> None:
    async def main() -> None:
        ledger, slow, quick = Ledger(2), Work(0.0), Work(1.0)
        slow.gate.clear()
        waiting = asyncio.ensure_future(ledger.scores(key("slow"), b"", slow))
        for name in "abc":
            await ledger.scores(key(name), b"", quick)
        await asyncio.sleep(0)
        for name, begun in (("b", 3), ("c", 3), ("a", 4)):
            await ledger.scores(key(name), b"", quick)
            assert quick.begun == begun, name
        slow.gate.set()
        assert await waiting == [0.0] == await ledger.scores(key("slow"), b"", slow)
        assert slow.begun == 1

    asyncio.run(main())
