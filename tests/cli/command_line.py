"""Runs the command line in this process, and says what it printed and what it left behind."""

from __future__ import annotations

import io
import json
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stepcredit.cli.main import main
from stepcredit.utils.error_log import NAME as LOG

TOY = [
    "sample.steps=4",
    "sample.prompts_per_epoch=2",
    "sample.images_per_prompt=4",
    "train.epochs=3",
    "train.updates_per_epoch=2",
    "train.learning_rate=0.05",
    "credit.window=2",
    "reward.name=warmth",
    "run.grid_images=2",
]
"""Overrides that make a run of the toy policy: 8 images of 4 steps an epoch."""

TINY = [
    "sample.prompts_per_epoch=2",
    "sample.images_per_prompt=2",
    "sample.steps=3",
    "train.epochs=2",
    "train.updates_per_epoch=2",
    "run.grid_images=2",
]
"""Overrides that make the embedded pipeline's epochs a fraction of a second."""


@dataclass(frozen=True)
class Said:
    code: int
    out: str
    err: str


def stepcredit(*arguments: str | Path) -> Said:
    """`stepcredit arguments...`, through the entry point itself."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main([str(argument) for argument in arguments])
    return Said(code, out.getvalue(), err.getvalue())


def refused(*arguments: str | Path) -> str:
    """The one line with which the command line refuses bad input; the working directory must be as it was.

    Only the log file of the user's own exceptions may appear.
    """
    before = tree(Path())
    said = stepcredit(*arguments)
    assert said.code == 2, said
    assert {name: content for name, content in tree(Path()).items() if name != LOG} == before
    assert Path(LOG).is_file() == said.err.endswith(f" (traceback: {LOG})\n")
    Path(LOG).unlink(missing_ok=True)
    assert said.out == ""
    return only_line(said)


def only_line(said: Said) -> str:
    """What stderr holds: one line that begins with the program's name, which is left out here."""
    assert said.err.count("\n") == 1 and said.err.endswith("\n"), said.err
    assert said.err.startswith("stepcredit: ")
    return said.err.removeprefix("stepcredit: ").rstrip("\n")


def tree(folder: Path) -> dict[str, bytes | None]:
    """Everything in a folder: the content of files, None for folders; without what Python compiles beside a plugin."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
        if "__pycache__" not in path.parts
    }


def rows(run: Path) -> list[dict[str, Any]]:
    """metrics.jsonl without what the clock and the machine decide."""
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [
        {key: value for key, value in row.items() if not key.startswith("seconds_") and key != "peak_memory_bytes"}
        for row in map(json.loads, lines)
    ]


def newest_checkpoint(run: Path) -> dict[str, bytes | None]:
    return tree(sorted((run / "checkpoints").iterdir())[-1])
