"""Write folders, files and lines completely or not at all, lock folders, and clean up after killed processes."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError

try:
    import fcntl
except ImportError:  # on Windows
    fcntl = None  # type: ignore[assignment]

_PARTIAL, _REPLACED = ".partial_", ".replaced_"


@contextmanager
def written_whole(target: Path) -> Iterator[Path]:
    """Yield a new folder. At the end of the block it replaces `target`; if the block raises, it is deleted.

    All files are on disk before the folder is renamed. If an older folder is replaced, a kill between the two renames
    leaves neither. Errors of safetensors are raised as OSError.
    """
    partial, replaced = (target.with_name(f"{prefix}{target.name}") for prefix in (_PARTIAL, _REPLACED))
    for leftover in (partial, replaced):
        shutil.rmtree(leftover, ignore_errors=True)
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
        for leftover in (partial, replaced):
            shutil.rmtree(leftover, ignore_errors=True)


@contextmanager
def locked(folder: Path) -> Iterator[tuple[int, ...]]:
    """Lock a folder against other processes. Yields the file descriptors that hold the lock.

    The lock ends with the process, however it ends. A process that inherits the descriptors holds it too, which
    `filelock` does not offer. If the process is killed, an empty file `.lock` remains, without effect.

    Raises:
        BlockingIOError: another process holds the lock.
    """
    if fcntl is None:
        yield ()
        return
    path = folder / ".lock"
    descriptor = _open_locked(path)
    try:
        yield (descriptor,)
    finally:
        with suppress(OSError):  # a file that remains has no effect
            if _is_file_at(descriptor, path):
                path.unlink()
        os.close(descriptor)


def _open_locked(path: Path) -> int:
    """A locked descriptor of the file at `path`. Repeats if the last holder has just deleted that file."""
    while True:
        descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o644)
        try:
            _lock(descriptor)
            if _is_file_at(descriptor, path):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _is_file_at(descriptor: int, path: Path) -> bool:
    """Whether the open file is still the one at `path`."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _lock(descriptor: int) -> None:
    """Some network file systems have no locks: there, every process succeeds."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:
        return


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file. A reader, or a crash, sees the old content or the new content, never a part."""
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
    """Append `data` completely or not at all. It is on disk when this returns."""
    with path.open("ab", buffering=0) as file:
        size = file.tell()
        try:
            while data:
                data = data[file.write(data) :]
            os.fsync(file.fileno())
        except BaseException:  # also after an interrupt
            file.truncate(size)
            raise


def sweep(root: Path) -> None:
    """Delete the unfinished folders and files that killed processes left in `root` and below."""
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
