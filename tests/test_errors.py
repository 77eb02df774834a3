"""The tree of errors, and the text helpers that error messages use."""

from __future__ import annotations

import copy

import pytest

from stepcredit import errors
from stepcredit.errors import (
    InputError,
    Interrupted,
    OutOfMemoryError,
    ProcessLost,
    ResumableError,
    RewardError,
    StepcreditError,
    printable,
    shortened,
    some_of,
    unknown,
)

EXIT_CODES = {
    StepcreditError: 1,
    InputError: 2,
    RewardError: 2,
    ResumableError: 2,
    OutOfMemoryError: 1,
    ProcessLost: 1,
    Interrupted: 130,
}


def test_exit_codes() -> None:
    assert {kind: kind.exit_code for kind in EXIT_CODES} == EXIT_CODES


def test_out_of_memory_is_resumable_and_not_bad_input() -> None:
    assert issubclass(OutOfMemoryError, ResumableError)
    assert not issubclass(ResumableError, InputError) and not issubclass(RewardError, InputError)


@pytest.mark.parametrize("kind", EXIT_CODES)
def test_a_message_is_one_line_whatever_it_quotes(kind: type[StepcreditError]) -> None:
    assert str(kind("no recipe 'a\nb\x1b[0m'")) == "no recipe 'a b\\x1b[0m'"


@pytest.mark.parametrize("kind", EXIT_CODES)
def test_the_tree_in_the_docstring_names_every_error_and_its_code(kind: type[StepcreditError]) -> None:
    lines = [line.lstrip("│├└─ ").split() for line in (errors.__doc__ or "").splitlines()]
    assert [kind.__name__, str(kind.exit_code)] in [words[:2] for words in lines]


def test_a_resumable_error_keeps_its_overrides_between_processes() -> None:
    """Ranks exchange errors as pickles, which copy.copy makes and reads as well."""
    error = copy.copy(OutOfMemoryError("no memory", "train.microbatch=1"))
    assert (str(error), error.overrides) == ("no memory", "train.microbatch=1")


@pytest.mark.parametrize(
    ("name", "known", "nearest"),
    [
        ("contribtion", ["contribution", "linear"], "contribution"),
        ("LINEAR", ["contribution", "linear"], "linear"),
        ("jpeg", ["warmth"], None),
        ("x", [], None),
    ],
)
def test_unknown_suggests_a_similar_name_only(name: str, known: list[str], nearest: str | None) -> None:
    message = str(unknown("thing", name, known))
    assert name in message and all(each in message for each in known)
    assert message.partition("did you mean '")[2].partition("'")[0] == (nearest or "")


def test_text_for_messages() -> None:
    assert some_of(["a", "b", "c", "d"], 2) == "a; b; and 2 more" and some_of(["a"]) == "a"
    assert shortened("a\n  b", 80) == "a b" and shortened("abcdefgh", 5) == "ab..."
    assert printable("a\nb\x1b[0m") == "a b\\x1b[0m"
