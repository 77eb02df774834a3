"""Disks that are full or closed: injected where a file is made durable, and real ones where a tmpfs may be mounted."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def failing_fsync(part: str, number: int, visits: int = 1) -> Iterator[None]:
    """From the `visits`-th time on, whoever makes a file durable whose path holds `part` gets this error number.

    It is where a disk that is full, or a network folder that is gone, may tell so at last, and every file of a run
    passes through it.
    """
    fsync, seen = os.fsync, 0

    def failing(descriptor: int) -> None:
        nonlocal seen
        if part in os.readlink(f"/proc/self/fd/{descriptor}"):
            seen += 1
            if seen >= visits:
                raise OSError(number, os.strerror(number))
        fsync(descriptor)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", failing)
        yield
    assert seen >= visits, f"nothing was written to {part}"


@contextmanager
def small_disk(folder: Path, kibibytes: int) -> Iterator[None]:
    """A tmpfs of this size in `folder`; the test is skipped where none may be mounted."""
    folder.mkdir()
    try:
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={kibibytes}k", "none", str(folder)], check=True, capture_output=True
        )
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no tmpfs may be mounted here")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def remount(folder: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True)


FULL, CLOSED, BROKEN = errno.ENOSPC, errno.EROFS, errno.EIO
