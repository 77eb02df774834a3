"""Packages that only some rewards need."""

from __future__ import annotations

from importlib.util import find_spec

from stepcredit.errors import InputError


def require_extra(module: str, extra: str, what: str) -> None:
    """Raises InputError with the command that installs `extra` if `module`, which `what` needs, is not installed."""
    if find_spec(module) is None:
        raise InputError(f"{what} needs {module}: pip install 'stepcredit[{extra}]'")
