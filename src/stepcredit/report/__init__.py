"""HTML reports: one self-contained page per run, with its images inside and nothing loaded from the network.

`run_page` makes the page of a run. Its parts are also used for comparisons: `page` is the frame, `markup` the HTML
elements, `charts` and `heat_map` draw SVG over `axes`, `step_profiles` shows the weight of each denoising step,
`sample_grids` the images, and `metrics` reads what a run recorded.
"""

from __future__ import annotations

from pathlib import Path

from stepcredit.report.metrics import json_object
from stepcredit.report.page import save
from stepcredit.report.run_page import run_page
from stepcredit.report.sample_grids import first_and_last
from stepcredit.runs.directory import RunDirectory
from stepcredit.runs.history import events

__all__ = ["write_report"]


def write_report(run: Path, out: Path | None = None) -> Path:
    """Write the report of the run directory `run` to `out`, by default report.html in it, and return its path.

    Metrics, sample grids and environment.json may be missing.

    Raises:
        InputError: `run` holds no run, or its files are damaged.
    """
    directory = RunDirectory.open(run)
    environment = directory.environment_path
    html = run_page(
        name=run.resolve().name,
        config=directory.config,
        config_text=directory.config_path.read_text(encoding="utf-8"),
        environment=json_object(environment, "delete it to report without it") if environment.is_file() else {},
        rows=directory.metrics(),
        grids=first_and_last(run / "samples"),
        history=events(run),
    )
    return save(html, out or directory.report_path)
