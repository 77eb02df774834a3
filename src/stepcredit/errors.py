"""Errors a user can cause and mend. The command line prints their one line and exits with their code."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class StepcreditError(Exception):
    """Base of every error of this package; `exit_code` is what the command line returns."""

    exit_code = 1


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
