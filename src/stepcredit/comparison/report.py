"""The page of a comparison: results.json, the protocol and what the runs left, as one self-contained HTML file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from stepcredit.comparison.directory import ComparisonDirectory
from stepcredit.comparison.html import page_of
from stepcredit.errors import InputError, shortened
from stepcredit.report.page import save
from stepcredit.report.rows import json_object, mapping
from stepcredit.runs import recipes

_REMEDY = "delete it and give the same `stepcredit compare` again, which makes it anew from the finished runs"


def write_comparison_report(folder: Path, out: Path | None = None) -> Path:
    """Write the page of the comparison in `folder` to `out`, by default report.html in it, and return its path.

    Runs that are gone leave out their step credit and samples.

    Raises:
        InputError: `folder` holds no comparison, one that is not finished, or files that `compare` did not write.
    """
    directory = ComparisonDirectory(folder)
    if not directory.protocol_path.is_file():
        raise InputError(f"{folder} holds no comparison (no protocol.yaml); give the folder that `compare` wrote")
    written = recipes.read_tree(directory.protocol_path)
    results = _results(directory)
    protocol = yaml.safe_dump(written.get("protocol"), sort_keys=False, allow_unicode=True)
    try:
        html = page_of(directory, folder.resolve().name, results, mapping(written.get("begun")), protocol)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise InputError(
            f"{directory.results_path} is not what `compare` writes ({type(error).__name__}: {shortened(str(error))}); "
            f"{_REMEDY}"
        ) from error
    return save(html, out or directory.report_path)


def _results(directory: ComparisonDirectory) -> Mapping[str, Any]:
    path = directory.results_path
    if not path.is_file():
        raise InputError(
            f"the comparison in {directory.path} is not finished (no results.json): the `stepcredit compare` that "
            "began it goes on; meanwhile, `stepcredit report` takes its finished runs one by one"
        )
    return json_object(path, _REMEDY)
