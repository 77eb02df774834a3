"""Hostile input by the thousand: every case works or is refused in one clear line, in time, and is counted.

`survive` runs the cases. What became of them is written, one JSON object per line, to the file that the environment
variable STEPCREDIT_FAULT_ROWS names, added to what is there: {"what", "how", "times", "outcome", "lost"}.
"""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis.strategies import SearchStrategy

from stepcredit.errors import StepcreditError, printable

Case = TypeVar("Case")
WORKS, REFUSED = "works", "one line, exit 2"
SECONDS = 20.0
"""How long one case may take before it counts as a hang."""
VARIABLE = "STEPCREDIT_FAULT_ROWS"
_tally: Counter[tuple[str, str, str, str]] = Counter()


class Hang(BaseException):
    """Like no error that a product would catch."""


def cases(fast: int, slow: int) -> pytest.MarkDecorator:
    """Runs a test twice: with few cases in the suite, with many under `-m slow`."""
    return pytest.mark.parametrize("cases", [fast, pytest.param(slow, marks=pytest.mark.slow)])


def survive(
    what: str, how: str, count: int, strategy: SearchStrategy[Case], attempt: Callable[[Case], object]
) -> Counter[str]:
    """Try `count` cases; anything but success or an InputError of one line fails. The outcomes are returned, too."""
    outcomes: Counter[str] = Counter()

    @settings(
        max_examples=count, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck)
    )
    @given(strategy)
    def trial(case: Case) -> None:
        outcome = outcome_of(lambda: attempt(case))
        outcomes[outcome] += 1
        record(what, how, outcome)

    trial()
    return outcomes


def outcome_of(attempt: Callable[[], object]) -> str:
    """What becomes of one case; an attempt that sees it refused by other means than an exception returns REFUSED."""
    try:
        with _in_time():
            return REFUSED if attempt() == REFUSED else WORKS
    except StepcreditError as error:
        line = printable(str(error))
        if error.exit_code != 2 or not line.strip():
            raise AssertionError(f"no clear line: {error!r}") from error
        return REFUSED


def record(what: str, how: str, outcome: str, lost: str = "nothing", times: int = 1) -> None:
    """Count cases for the table: what was attacked, how, what became of it, what work was lost."""
    _tally[what, how, outcome, lost] += times


def write_rows() -> None:
    """Add what was counted to the file that is asked for, if one is."""
    place = os.environ.get(VARIABLE)
    if not place:
        return
    keys = ("what", "how", "outcome", "lost")
    rows = [dict(zip(keys, key, strict=True)) | {"times": times} for key, times in sorted(_tally.items())]
    with Path(place).open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    _tally.clear()


@contextmanager
def _in_time() -> Iterator[None]:
    def hang(*_: Any) -> None:
        raise Hang(f"a case took more than {SECONDS:g} s")

    previous = signal.signal(signal.SIGALRM, hang)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
