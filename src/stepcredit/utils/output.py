"""The folder that a command or a method writes its result to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stepcredit.errors import InputError, shortened
from stepcredit.utils.paths import expanded

ANOTHER_FOLDER = "choose another folder"

_WEIGHTS = (".safetensors", ".ckpt", ".bin", ".pt")


def as_path(name: str, value: Any) -> Path:
    """`value` as a path that the operating system accepts.

    Args:
        name: how errors name the argument.

    Raises:
        InputError: it is not a string or path, is empty, or cannot be the name of a file.
    """
    if not isinstance(value, str | Path):
        raise InputError(f"{name} is {shortened(repr(value))} of type {type(value).__name__}, expected a path")
    if not str(value):
        raise InputError(f"{name} is empty, expected a path")
    path = expanded(value)
    try:
        path.stat()
    except FileNotFoundError:
        return path
    except (OSError, ValueError) as error:  # too long, a null character, below a file, or not readable
        raise InputError(f"{name} cannot be {shortened(repr(str(value)))}: {_reason(error)}") from error
    return path


def require_empty(folder: Path, remedy: str = ANOTHER_FOLDER) -> None:
    """Refuse to write into a folder that holds something.

    Args:
        remedy: what the user should do, as errors say it.

    Raises:
        InputError: `folder` is a file or named like one, is not empty, or cannot be read.
    """
    if folder.suffix in _WEIGHTS and not folder.exists():
        raise InputError(f"{folder} is the name of a file, expected a folder; {remedy}")
    with writing_to(folder, remedy):
        occupied = folder.exists() and (not folder.is_dir() or any(folder.iterdir()))
    if occupied:
        raise InputError(f"{folder} exists and is not an empty folder; {remedy}")


@contextmanager
def writing_to(folder: Path, remedy: str = ANOTHER_FOLDER) -> Iterator[None]:
    """Report an OSError in the block as an InputError that names the folder."""
    try:
        yield
    except OSError as error:
        raise InputError(f"cannot write to {folder}: {_reason(error)}; {remedy}") from error


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
