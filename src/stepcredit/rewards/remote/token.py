"""The secret that client and server share. It is read from the environment or a file and never written."""

from __future__ import annotations

import os
from pathlib import Path

from stepcredit.errors import InputError

VARIABLE = "STEPCREDIT_REWARD_TOKEN"


def read_token(file: Path | None) -> str | None:
    """The token in `file`, else in STEPCREDIT_REWARD_TOKEN, else None.

    Raises:
        InputError: the file cannot be read, or the token is empty or not printable ASCII. The error does not quote it.
    """
    if file is None:
        token, source = os.environ.get(VARIABLE), VARIABLE
    else:
        token, source = _content(file), str(file)
    if token is None:
        return None
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise InputError(f"the token in {source} must be printable ASCII without spaces, and not empty")
    return token


def _content(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise InputError(f"cannot read the token file {file}: {reason}") from error
