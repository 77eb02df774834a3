"""Draw several charts, made with the code of the run report, side by side in one self-contained SVG."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape
from pathlib import Path

import stepcredit.report
from stepcredit.report.axes import Size

PANEL = Size(320, 200)
_HEIGHT, _GAP = 34, 16


def side_by_side(charts: Sequence[tuple[str, str]], legend: str, columns: int, style: str = "") -> str:
    """One SVG of (title, chart) pairs in rows of `columns`.

    Args:
        charts: titles and SVG charts of size PANEL.
        legend: escaped SVG text below the charts.
        columns: the number of charts in a row.
        style: CSS rules in addition to those of the report.
    """
    columns = min(columns, len(charts))
    rows = -(-len(charts) // columns)
    width, height = columns * (PANEL.width + _GAP), rows * (PANEL.height + _HEIGHT + _GAP) + _HEIGHT
    panels = []
    for index, (title, chart) in enumerate(charts):
        x, y = (index % columns) * (PANEL.width + _GAP), (index // columns) * (PANEL.height + _HEIGHT + _GAP)
        panels.append(f'<text class="title" x="{x + 8}" y="{y + 22}">{escape(title)}</text>')
        panels.append(_position(chart, x, y + _HEIGHT))
    return (
        f'<svg class="chart" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}"><style>{_style()} {style}</style><rect class="paper" width="{width}" height="{height}"/>'
        f'{"".join(panels)}<text x="8" y="{height - 10}">{legend}</text></svg>\n'
    )


def _position(svg: str, x: int, y: int) -> str:
    attributes = f'x="{x}" y="{y}" width="{PANEL.width}" height="{PANEL.height}"'
    return re.sub(r'^<svg class="(chart[^"]*)"', rf'<svg class="\1" {attributes}', svg)


def _style() -> str:
    """The CSS rules of the run report's charts."""
    report = (Path(stepcredit.report.__file__).parent / "style.css").read_text(encoding="utf-8")
    rules = re.findall(
        r"^(?::root|@media \(prefers.*?^\}|\.(?:chart text|rule|base|s\d|d\d|line|band|dot|many)).*?\}$",
        report,
        re.S | re.M,
    )
    own = ".paper { fill: var(--paper); } .chart text.title { fill: var(--ink); font-size: 14px; }"
    return " ".join([*rules, own])
