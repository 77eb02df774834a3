"""Round robin with pauses."""

from __future__ import annotations

from stepcredit.rewards.remote.servers import Servers


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def turns(servers: Servers, count: int) -> str:
    return "".join(servers.next() for _ in range(count))


def test_round_robin() -> None:
    assert turns(Servers("abc", Clock()), 7) == "abcabca"


def test_a_paused_server_is_skipped() -> None:
    clock = Clock()
    servers = Servers("abc", clock)
    servers.pause("b", 5)
    assert turns(servers, 4) == "acac"
    clock.now += 4.9
    assert turns(servers, 2) == "ac"
    clock.now += 0.1
    assert turns(servers, 3) == "abc"


def test_a_restored_server_is_used() -> None:
    servers = Servers("ab", Clock())
    servers.pause("b", 5)
    servers.restore("b")
    assert turns(servers, 4) == "abab"


def test_if_all_are_paused_the_first_to_return_is_used() -> None:
    clock = Clock()
    servers = Servers("ab", clock)
    assert servers.any_available()
    servers.pause("a", 5)
    assert servers.any_available()
    servers.pause("b", 3)
    assert not servers.any_available()
    assert turns(servers, 2) == "bb"
    clock.now += 3
    assert servers.any_available()
