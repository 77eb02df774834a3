"""One self-contained HTML page per run: nothing from the network, pictures inside.

`run` is the page of one run, of parts that other pages are made of too: `page` is the frame, `markup` its pieces,
`charts` and `heat` are drawings over `axes`, `steps` what each denoising step counted, `pictures` the sample grids with
their slider, `rows` reads what was recorded.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from stepcredit.errors import InputError
from stepcredit.report.pictures import first_and_last
from stepcredit.report.run import run_page
from stepcredit.tracking import RunDirectory, write_atomically

__all__ = ["write_report"]


def write_report(run: Path, out: Path | None = None) -> Path:
    """Write the page of the run directory `run` to `out`, by default report.html in it, and return its path.

    Epochs, sample grids and environment.json may be missing; InputError where `run` holds no run.
    """
    directory = RunDirectory.open(run)
    html = run_page(
        name=run.resolve().name,
        config=directory.config,
        config_text=directory.config_path.read_text(encoding="utf-8"),
        environment=_environment(directory.environment_path),
        rows=directory.metrics(),
        pictures=first_and_last(run / "samples"),
    )
    path = out or directory.report_path
    write_atomically(path, html.encode(errors="replace"))  # halves of surrogate pairs
    return path


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
