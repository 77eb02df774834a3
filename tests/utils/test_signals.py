"""A signal waits for what must be finished, and only for that."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from stepcredit.utils.signals import SIGNALS, finished_first, interruptible


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    """SIGINT raises KeyboardInterrupt, SIGTERM too."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with interruptible():
        yield
    for number, handler in before.items():
        signal.signal(number, handler)


def held(*numbers: int, told: Callable[[], None] = lambda: None) -> list[int]:
    """Raises signals one after the other, all inside; returns those after which it went on."""
    done: list[int] = []
    with suppress(KeyboardInterrupt), finished_first(told):
        for number in numbers:
            signal.raise_signal(number)
            done.append(number)
    return done


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_takes_effect_at_the_end(number: signal.Signals) -> None:
    done = []

    def work() -> None:
        with finished_first(lambda: done.append("told")):
            signal.raise_signal(number)
            done.append("finished")
        done.append("went on")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert done == ["told", "finished"]


@pytest.mark.parametrize("number", SIGNALS)
def test_a_second_signal_takes_effect_at_once(number: signal.Signals) -> None:
    assert held(signal.SIGINT, number) == [signal.SIGINT]


def test_the_handlers_from_before_are_there_again() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    with finished_first():
        assert [signal.getsignal(number) for number in SIGNALS] != before
    assert [signal.getsignal(number) for number in SIGNALS] == before
    assert held(signal.SIGINT) == [signal.SIGINT]
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_an_error_inside_is_all_that_is_heard() -> None:
    def fail() -> None:
        with finished_first():
            signal.raise_signal(signal.SIGINT)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()


def test_what_was_ignored_stays_so() -> None:
    """As for a job that a shell started in the background."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    done = []
    with finished_first(lambda: done.append("told")):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
    assert done == []


def test_one_inside_another_waits_for_the_outer() -> None:
    done = []

    def work() -> None:
        with finished_first():
            with finished_first():
                signal.raise_signal(signal.SIGINT)
                done.append("inner")
            done.append("outer")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert done == ["inner", "outer"]


def test_a_print_that_was_interrupted_by_its_own_signal_is_no_error() -> None:
    def told() -> None:
        raise RuntimeError("reentrant call inside <_io.BufferedWriter>")

    assert held(signal.SIGINT, told=told) == [signal.SIGINT]


def in_a_thread(what: Callable[[], None]) -> None:
    thread = threading.Thread(target=what)
    thread.start()
    thread.join()


def test_other_threads_get_no_signals_and_set_no_handlers() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    seen = []

    def look() -> None:
        with finished_first():
            seen.append([signal.getsignal(number) for number in SIGNALS])

    in_a_thread(look)
    assert seen == [before]


def test_handlers_of_the_program_stay_and_other_threads_change_nothing() -> None:
    def mine(*_: object) -> None: ...

    signal.signal(signal.SIGTERM, mine)
    with interruptible():
        assert signal.getsignal(signal.SIGTERM) is mine

    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    errors: list[BaseException] = []

    def elsewhere() -> None:
        try:
            with interruptible():
                assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert not errors
