"""What a process of a comparison does: train a run, or evaluate it."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol


class Job(Protocol):
    """The work of one process.

    Attributes:
        name: in messages.
        log: the file that gets the output of the process.
    """

    @property
    def name(self) -> str: ...

    @property
    def log(self) -> Path: ...

    def finished(self) -> bool:
        """Whether a process did this before."""

    def command(self) -> list[str]:
        """The command line. Writes the files that it needs."""

    def mark_finished(self) -> None:
        """Record that the process exited with code 0."""

    def epochs(self) -> int:
        """The number of epochs that were trained so far."""
