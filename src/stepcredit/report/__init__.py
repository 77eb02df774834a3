"""One self-contained HTML page per run: nothing from the network, pictures inside.

`run` is the page of one run, of parts that other pages are made of too: `page` is the frame, `markup` its pieces,
`charts` and `heat` are drawings over `axes`, `steps` what each denoising step counted, `pictures` the sample grids with
their slider, `rows` reads what was recorded.
"""

from __future__ import annotations

from pathlib import Path

from stepcredit.report.page import save
from stepcredit.report.pictures import first_and_last
from stepcredit.report.rows import json_object
from stepcredit.report.run import run_page
from stepcredit.runs.directory import RunDirectory

__all__ = ["write_report"]


def write_report(run: Path, out: Path | None = None) -> Path:
    """Write the page of the run directory `run` to `out`, by default report.html in it, and return its path.

    Epochs, sample grids and environment.json may be missing; InputError where `run` holds no run.
    """
    directory = RunDirectory.open(run)
    recorded = directory.environment_path
    html = run_page(
        name=run.resolve().name,
        config=directory.config,
        config_text=directory.config_path.read_text(encoding="utf-8"),
        environment=json_object(recorded, "delete it to do without") if recorded.is_file() else {},
        rows=directory.metrics(),
        pictures=first_and_last(run / "samples"),
    )
    return save(html, out or directory.report_path)
