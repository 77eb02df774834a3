"""The log file with the tracebacks of the user's code. Messages themselves are one line each."""

from __future__ import annotations

import tempfile
from datetime import UTC, datetime
from pathlib import Path

from stepcredit.errors import StepcreditError, printable, user_traceback
from stepcredit.utils.files import append_whole
from stepcredit.utils.redaction import masked

NAME = "stepcredit.log"


def write_error_log(error: StepcreditError) -> Path | None:
    """Append the time, the message and the traceback (`user_traceback`) of `error` to a file; return the file.

    It is `stepcredit.log` in `error.log_dir`, if that exists, else in the current folder. If it cannot be written, in
    the folder for temporary files. Secrets are masked.

    Returns:
        None if the error has no traceback, or if no folder can be written.
    """
    traceback = user_traceback(error)
    return log_traceback(str(error), traceback, error.log_dir) if traceback else None


def with_log(message: str, log: Path | None) -> str:
    """`message`, and where the traceback is.

    >>> with_log("reward 'mine' raised ValueError", Path("stepcredit.log"))
    "reward 'mine' raised ValueError (traceback: stepcredit.log)"
    """
    return message if log is None else f"{message} (traceback: {log})"


def log_traceback(message: str, traceback: str, folder: Path | None) -> Path | None:
    """As `write_error_log`, for any message."""
    time = datetime.now(UTC).isoformat(timespec="seconds")
    entry = masked(f"{time} {printable(message)}\n{traceback.rstrip()}\n\n").encode(errors="backslashreplace")
    for place in (folder, Path(), Path(tempfile.gettempdir())):
        if place is None or not place.is_dir():
            continue
        try:
            append_whole(place / NAME, entry)
        except OSError:
            continue
        return place / NAME
    return None
