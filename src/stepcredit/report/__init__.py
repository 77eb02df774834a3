"""One self-contained HTML page per run: no script, no network, pictures inside."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from stepcredit.errors import InputError
from stepcredit.report.page import Grid, render
from stepcredit.tracking import RunDirectory, write_atomically

__all__ = ["write_report"]


def write_report(run: Path) -> Path:
    """Write report.html of the run directory `run` and return its path.

    Epochs, sample grids and environment.json may be missing; InputError where `run` holds no run.
    """
    directory = RunDirectory.open(run)
    html = render(
        name=run.resolve().name,
        config=directory.config,
        config_text=directory.config_path.read_text(encoding="utf-8"),
        environment=_environment(directory.environment_path),
        rows=directory.metrics(),
        grids=_grids(run / "samples"),
    )
    write_atomically(directory.report_path, html.encode(errors="replace"))  # halves of surrogate pairs
    return directory.report_path


def _environment(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        facts = json.loads(path.read_bytes())
        if not isinstance(facts, dict):
            raise TypeError(f"it holds a {type(facts).__name__}")
        return facts
    except (ValueError, TypeError, RecursionError) as error:
        raise InputError(f"{path} is not a JSON object: {error}; delete it to do without") from error


def _grids(folder: Path) -> list[Grid]:
    """The first and the last epoch_NNNN.png of a folder, the only ones shown."""
    pictures = [path for path in folder.glob("*.png") if path.is_file()]
    found = {int(name[1]): path for path in pictures if (name := re.fullmatch(r"epoch_(\d+)", path.stem))}
    epochs = sorted(found)
    return [Grid(epoch, found[epoch].read_bytes()) for epoch in dict.fromkeys([*epochs[:1], *epochs[-1:]])]
