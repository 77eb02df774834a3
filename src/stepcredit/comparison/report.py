"""Write the HTML report of a finished comparison."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from stepcredit.comparison.directory import ComparisonDirectory
from stepcredit.comparison.report_page import comparison_page
from stepcredit.errors import InputError, shortened
from stepcredit.report.metrics import json_object, mapping
from stepcredit.report.page import save
from stepcredit.runs import recipes

_REMEDY = "delete it and run the same `stepcredit compare` again, which writes it from the finished runs"


def write_comparison_report(folder: Path, out: Path | None = None) -> Path:
    """Write the report of the comparison in `folder` to `out`, by default report.html in it, and return its path.

    If the run directories were deleted, the report lacks step credit and samples.

    Raises:
        InputError: `folder` holds no comparison, it is not finished, or its files are damaged.
    """
    directory = ComparisonDirectory(folder)
    if not directory.protocol_path.is_file():
        raise InputError(f"{folder} holds no comparison (no protocol.yaml); give the folder that `compare` wrote")
    recorded = recipes.read_tree(directory.protocol_path)
    results = _results(directory)
    protocol = yaml.safe_dump(recorded.get("protocol"), sort_keys=False, allow_unicode=True)
    try:
        html = comparison_page(directory, folder.resolve().name, results, mapping(recorded.get("begun")), protocol)
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
            f"the comparison in {directory.path} is not finished (no results.json): continue it with the same "
            "`stepcredit compare`, or report on its finished runs one by one"
        )
    results: Mapping[str, Any] = _renamed(json_object(path, _REMEDY))
    return results


def _renamed(value: Any) -> Any:
    """`value` with the present names of keys; version 0.1 wrote `remark` for `warning`."""
    if isinstance(value, dict):
        return {"warning" if key == "remark" else key: _renamed(inner) for key, inner in value.items()}
    return [_renamed(inner) for inner in value] if isinstance(value, list) else value
