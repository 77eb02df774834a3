"""Optional dependencies."""

from __future__ import annotations

from importlib.util import find_spec

from stepcredit.errors import InputError


def require_extra(module: str, extra: str, feature: str) -> None:
    """InputError with the command that installs `extra`, unless `module`, which `feature` needs, is installed."""
    if find_spec(module) is None:
        raise InputError(f"{feature} needs {module}: pip install 'stepcredit[{extra}]'")
