"""Folders, files and lines that are there whole or not at all, and what a killed process leaves of others."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError

try:
    import fcntl
except ImportError:  # Windows has no such locks
    fcntl = None  # type: ignore[assignment]

_PARTIAL, _REPLACED = ".partial_", ".replaced_"


@contextmanager
def written_whole(target: Path) -> Iterator[Path]:
    """Gives a new folder to write into, which takes the place of `target` at the end, or goes if the writing fails.

    Everything is on disk before it is renamed. Between the two renames that replace an older folder, and only there, a
    kill leaves neither. What safetensors cannot write is an OSError like any other.
    """
    partial, replaced = (target.with_name(f"{prefix}{target.name}") for prefix in (_PARTIAL, _REPLACED))
    for left in (partial, replaced):
        shutil.rmtree(left, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        yield partial
        for path in (*partial.rglob("*"), partial):
            sync(path)
        if target.exists():
            target.rename(replaced)
        partial.rename(target)
        sync(target.parent)
    except SafetensorError as error:
        raise OSError(f"cannot write {target}: {error}") from error
    finally:
        if replaced.exists() and not target.exists():
            replaced.rename(target)
        for left in (partial, replaced):
            shutil.rmtree(left, ignore_errors=True)


@contextmanager
def locked(folder: Path) -> Iterator[tuple[int, ...]]:
    """Nobody else works in the folder meanwhile. Yields the file descriptors that hold the lock.

    It ends with the process, however that ends; a process that inherits the descriptors holds it too. Its empty file
    goes at the end, and stays, without effect, where the process was killed.

    Raises:
        BlockingIOError: somebody does.
    """
    if fcntl is None:
        yield ()
        return
    path = folder / ".lock"
    descriptor = _held(path)
    try:
        yield (descriptor,)
    finally:
        with suppress(OSError):  # what stays has no effect
            if _same(descriptor, path):
                path.unlink()
        os.close(descriptor)


def _held(path: Path) -> int:
    """A locked descriptor of the file at `path`, not of one that its last holder has just removed."""
    while True:
        descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o644)
        try:
            _lock(descriptor)
            if _same(descriptor, path):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _same(descriptor: int, path: Path) -> bool:
    """Whether `path` is still the file that was opened."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _lock(descriptor: int) -> None:
    """A disk without locks, such as some network ones, lets everybody in."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:
        return


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that a reader, or a crash, finds the old content or the new and never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def append_whole(path: Path, data: bytes) -> None:
    """Append `data`, on disk when this returns, or nothing."""
    with path.open("ab", buffering=0) as file:
        size = file.tell()
        try:
            while data:
                data = data[file.write(data) :]
            os.fsync(file.fileno())
        except BaseException:  # an interrupt too must leave no torn line
            file.truncate(size)
            raise


def sweep(root: Path) -> None:
    """Delete what processes that were killed have left in `root` and below: unfinished folders and files."""
    for path in [*root.rglob(f"{_PARTIAL}*"), *root.rglob(f"{_REPLACED}*")]:
        shutil.rmtree(path, ignore_errors=True)
    for path in root.rglob(".*.tmp"):
        path.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Wait until a file or folder is on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
