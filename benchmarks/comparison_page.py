"""Write the tables and the reward curves of a finished comparison into the docs.

    uv run stepcredit compare benchmark_embedded --run runs/benchmark_embedded
    uv run python benchmarks/comparison_page.py runs/benchmark_embedded --name embedded

The second command replaces the text between `<!-- NAME -->` and `<!-- /NAME -->` in docs/results/log.md with the tables
of results.json. It also writes docs/images/benchmark_NAME.svg, which shows mean reward against reward queries.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

from _page import DOCS, fill
from _panels import PANEL, side_by_side

from stepcredit.comparison.report_page import curve_lines
from stepcredit.comparison.tables import reward_sections
from stepcredit.report.charts import line_chart
from stepcredit.runs.versions import versions_text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of the comparison")
    parser.add_argument("--name", required=True, help="name of the section in the page and of the picture")
    parser.add_argument("--docs", type=Path, default=DOCS, help="folder of results/log.md and images/")
    options = parser.parse_args()
    results = json.loads((options.run / "results.json").read_text(encoding="utf-8"))
    page = options.docs / "results" / "log.md"
    fill(page, options.name, section(results))
    picture = options.docs / "images" / f"benchmark_{options.name}.svg"
    picture.write_text(curves(results), encoding="utf-8")
    print(f"wrote {page} and {picture}")


def section(results: Mapping[str, Any]) -> str:
    """All tables, with headings one level down, and the setting of the measurement."""
    versions = versions_text(results["versions"])
    runs = sum(len(arm["by_seed"]) for found in results["rewards"].values() for arm in found["arms"].values())
    setting = (
        f"{runs} runs on fresh seeds {', '.join(map(str, results['protocol']['fresh_seeds']))}, {results['jobs']} at a "
        f"time, one thread each; {platform.machine()}, {os.cpu_count()} cores; {versions}."
    )
    return "\n\n".join([setting, *(re.sub("^## ", "#### ", part) for part in reward_sections(results))])


def curves(results: Mapping[str, Any]) -> str:
    """One panel per reward."""
    charts = []
    for reward, found in results["rewards"].items():
        lines = curve_lines(found["arms"], "queries", "mean")
        charts.append((reward, line_chart(lines, x_label="reward queries", y_label=reward, size=PANEL)))
    names = next(iter(results["rewards"].values()))["arms"]
    legend = "  ".join(
        f'<tspan fill="var(--s{index % 8})">■</tspan> {escape(name)}' for index, name in enumerate(names)
    )
    return side_by_side(charts, legend, columns=2, style=".dot { display: none; }")


if __name__ == "__main__":
    main()
