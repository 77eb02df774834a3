"""Paths as users write them."""

from __future__ import annotations

import os
from os import PathLike
from pathlib import Path


def expanded(path: str | PathLike[str]) -> Path:
    """`path` with a leading `~` or `~user` replaced by that home folder. A `~` of an unknown user stays as it is.

    A shell expands only the `~` at the beginning of a word, and so not that of `--run=~/run` or `model.path=~/model`.
    """
    return Path(os.path.expanduser(path))
