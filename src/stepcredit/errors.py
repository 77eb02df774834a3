"""Errors a user can cause and mend. The command line prints their one line and exits with their code."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

_LONGEST = 1500


class StepcreditError(Exception):
    """Base of every error of this package.

    Attributes:
        exit_code: what the command line returns.
        told_by_each: whether a process that is not the first of its machine prints it too.
    """

    exit_code = 1
    told_by_each = False


class InputError(StepcreditError):
    """Something given by the user is wrong: a config key, a file, a model, a reward's output."""

    exit_code = 2


class Interrupted(StepcreditError):
    """A signal stopped the run after its checkpoint was written."""

    exit_code = 130


def unknown(kind: str, name: str, known: Iterable[str]) -> InputError:
    """An InputError for a name that is not among `known`, naming the nearest one.

    >>> str(unknown("credit rule", "contribtion", ["contribution", "linear"]))
    "unknown credit rule 'contribtion' (did you mean 'contribution'?); known: contribution, linear"
    """
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f" (did you mean '{near[0]}'?)" if near else ""
    return InputError(f"unknown {kind} '{name}'{hint}; known: {', '.join(names) or 'none'}")


def some_of(lines: Sequence[str], most: int = 3) -> str:
    """The first of many complaints, and how many more there are.

    >>> some_of(["a", "b", "c", "d"])
    'a; b; c; and 1 more'
    """
    more = [f"and {len(lines) - most} more"] if len(lines) > most else []
    return "; ".join([*lines[:most], *more])


def shortened(text: str, width: int = 80) -> str:
    """`text` on one line of at most `width` characters, for an error."""
    line = " ".join(text.split())
    return line if len(line) <= width else f"{line[: width - 3]}..."


def printable(text: str) -> str:
    """`text` on one line of at most 1500 letters, with escapes for what a terminal would act on or could not show."""
    line = " ".join(text.splitlines())
    line = line if len(line) <= _LONGEST else f"{line[: _LONGEST - 3]}..."
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in line)
