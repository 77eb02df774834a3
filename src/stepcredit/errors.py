"""The errors of this package. The command line prints each of them as one line and exits with its code.

    StepcreditError            1    base class
    ├── InputError             2    the user gave something wrong: a key, a file, a model, an argument
    ├── RewardError            2    a reward raised, or did not return one finite number per image
    ├── ResumableError         2    the run cannot continue, but can be resumed after a change
    │   └── OutOfMemoryError   1    the run needs more memory than there is
    ├── ProcessLost            1    another process of the run ended or cannot be reached
    └── Interrupted          130    a signal stopped the run

Errors that belong to one module derive from one of these: `PayloadError` and `ScoringError` of the reward server, for
example, are InputErrors.
"""

from __future__ import annotations

import difflib
import traceback
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypeVar

_MAX_LENGTH = 1500
_MIN_SIMILARITY = 0.6


class StepcreditError(Exception):
    """Base class of all errors of this package. The message is always one line, see `printable`.

    Attributes:
        exit_code: exit code of the command line.
        show_on_every_rank: whether the command line prints the error on every rank, and not only on local rank 0.
        traceback: of the exception that the user's pipeline, reward or plugin raised, as text, which other processes
            can receive; empty if there is none. The command line appends it to a log file.
        log_dir: the folder of that file. None means the current folder.
    """

    exit_code = 1
    show_on_every_rank = False
    traceback = ""
    log_dir: Path | None = None

    def __str__(self) -> str:
        return printable(super().__str__())


class InputError(StepcreditError):
    """The user gave something wrong: a configuration key, a file, a model, an argument."""

    exit_code = 2


class RewardError(StepcreditError):
    """A reward raised, or returned something other than one finite number per image."""

    exit_code = 2


class ResumableError(StepcreditError):
    """The run cannot continue as it is, but it can be resumed.

    Attributes:
        overrides: `section.key=value` overrides to append to the command that resumes the run.
    """

    exit_code = 2

    def __init__(self, message: str, overrides: str = "") -> None:
        super().__init__(message)
        self.overrides = overrides


class OutOfMemoryError(ResumableError):
    """The run needs more memory than there is. It can be resumed with settings that need less."""

    exit_code = 1


class ProcessLost(StepcreditError):
    """Another process of the run ended or cannot be reached. The run can be resumed."""


class Interrupted(StepcreditError):
    """A signal stopped the run."""

    exit_code = 130


Raised = TypeVar("Raised", bound=StepcreditError)


def caused_by(cause: BaseException, error: Raised) -> Raised:
    """`error` with the traceback of `cause`, an exception that the user's code raised."""
    if not isinstance(cause, StepcreditError):
        error.traceback = "".join(traceback.format_exception(cause))
    return error


def user_traceback(error: BaseException | None) -> str:
    """The `traceback` of an error, or of the first of its causes that has one; empty if there is none."""
    while error is not None:
        if isinstance(error, StepcreditError) and error.traceback:
            return error.traceback
        error = error.__cause__ or error.__context__
    return ""


def unknown(kind: str, name: str, known: Iterable[str]) -> InputError:
    """An InputError for a name that is not in `known`. It suggests the most similar one, if that is similar enough.

    >>> str(unknown("credit rule", "contribtion", ["contribution", "linear"]))
    "unknown credit rule 'contribtion' (did you mean 'contribution'?); known: contribution, linear"
    """
    names = sorted(known)
    by_lower_case = {each.lower(): each for each in names}
    nearest = difflib.get_close_matches(name.lower(), by_lower_case, n=1, cutoff=_MIN_SIMILARITY)
    hint = f" (did you mean '{by_lower_case[nearest[0]]}'?)" if nearest else ""
    return InputError(f"unknown {kind} '{name}'{hint}; known: {', '.join(names) or 'none'}")


def some_of(lines: Sequence[str], limit: int = 3) -> str:
    """The first `limit` lines, joined, and the number of the others.

    >>> some_of(["a", "b", "c", "d"])
    'a; b; c; and 1 more'
    """
    more = [f"and {len(lines) - limit} more"] if len(lines) > limit else []
    return "; ".join([*lines[:limit], *more])


def shortened(text: str, width: int = 80) -> str:
    """`text` on one line of at most `width` characters."""
    line = " ".join(text.split())
    return line if len(line) <= width else f"{line[: width - 3]}..."


def described(error: BaseException) -> str:
    """Type, message and place of an error on one line."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {shortened(str(error), 300)}{place}"


def printable(text: str) -> str:
    """`text` on one line of at most 1500 characters, with control and other unprintable characters escaped."""
    line = " ".join(text.splitlines())
    line = line if len(line) <= _MAX_LENGTH else f"{line[: _MAX_LENGTH - 3]}..."
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in line)
