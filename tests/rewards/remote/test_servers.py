"""Whose turn it is."""

from __future__ import annotations

from stepcredit.rewards.remote.servers import Servers


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def turns(servers: Servers, count: int) -> str:
    return "".join(servers.next() for _ in range(count))


def test_in_turn() -> None:
    assert turns(Servers("abc", Clock()), 7) == "abcabca"


def test_one_that_failed_is_left_out_until_its_rest_is_over() -> None:
    clock = Clock()
    servers = Servers("abc", clock)
    servers.failed("b", 5)
    assert turns(servers, 4) == "acac"
    clock.now += 4.9
    assert turns(servers, 2) == "ac"
    clock.now += 0.1
    assert turns(servers, 3) == "abc"


def test_one_that_answered_is_well_again() -> None:
    servers = Servers("ab", Clock())
    servers.failed("b", 5)
    servers.answered("b")
    assert turns(servers, 4) == "abab"


def test_if_all_rest_the_one_that_rests_least() -> None:
    clock = Clock()
    servers = Servers("ab", clock)
    assert servers.any_awake()
    servers.failed("a", 5)
    assert servers.any_awake()
    servers.failed("b", 3)
    assert not servers.any_awake()
    assert turns(servers, 2) == "bb"
    clock.now += 3
    assert servers.any_awake()
