"""`stepcredit evaluate`: print what runs and models score, with and without training."""

from __future__ import annotations

import json
import os
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console

from stepcredit.errors import InputError
from stepcredit.evaluation.set_statistics import set_statistics
from stepcredit.evaluation.sources import evaluate_sources
from stepcredit.evaluation.tables import cross_table, evaluation_table
from stepcredit.runs.progress import live_bar
from stepcredit.runs.versions import versions_text
from stepcredit.utils.files import write_atomically

_WIDTH = 110


def evaluate(
    names: Sequence[str],
    prompts: Sequence[str],
    rewards: Sequence[str],
    out: Path | None,
    images: int,
    seed: int,
    steps: int | None,
    guidance: float | None,
    cross: bool,
    as_json: bool,
) -> None:
    """Print the results as tables or as one JSON object, and write the object to `out`.

    Args are those of `stepcredit.evaluation.sources.evaluate_sources`.

    Raises:
        InputError: a bad source, prompt set, reward or `out`; raised before anything is sampled.
        RewardError: a reward failed on an image.
    """
    _require_writable(out)
    with _progress() as on_progress:
        result = evaluate_sources(
            names,
            prompts,
            rewards,
            images=images,
            seed=seed,
            steps=steps,
            guidance=guidance,
            cross=cross,
            on_progress=on_progress,
            on_note=lambda text: print(text, file=sys.stderr),
        )
    print(_json(result) if as_json else _text(result))
    _write(result, out)


def _text(result: dict[str, Any]) -> str:
    blocks = [*map(evaluation_table, result["evaluations"]), *map(cross_table, result["cross"])]
    notes = [
        f"mean ± standard error [interval]: {result['uncertainty']}",
        *(f"{one.label}: {result[name]}" for name, one in set_statistics().items() if name in result),
        f"versions: {versions_text(result['versions'])}",
    ]
    return "\n\n".join([*blocks, *(textwrap.fill(note, _WIDTH) for note in notes)])


def _json(result: dict[str, Any]) -> str:
    return json.dumps(result, indent=1, allow_nan=False)


def _require_writable(out: Path | None) -> None:
    """Find out before sampling whether `out` can be written. Creates nothing."""
    if out is None:
        return
    if out.is_dir():
        raise InputError(f"cannot write to {out}: it is a folder; choose another --out")
    parent = next(folder for folder in out.absolute().parents if folder.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise InputError(f"cannot write to {out}: {parent} is not a writable folder; choose another --out")


def _write(result: dict[str, Any], out: Path | None) -> None:
    if out is None:
        return
    try:
        write_atomically(out, f"{_json(result)}\n".encode())
    except OSError as error:
        raise InputError(f"cannot write to {out}: {error.strerror or error}; choose another --out") from error


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None]]:
    """A progress bar on stderr, so that stdout holds only the result. Without a terminal there is none."""
    with live_bar(Console(stderr=True), "images", "{task.completed:.0f}/{task.total:.0f}") as bar:
        task = bar.add_task("", total=0)
        yield lambda done, total: bar.update(task, completed=done, total=total)
