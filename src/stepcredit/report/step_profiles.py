"""How much each denoising step counts: its credit, the sampler's own scale, and their product."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from statistics import fmean

from stepcredit.report.axes import LARGE, number
from stepcredit.report.charts import Line, Point, legend, line_chart
from stepcredit.report.heat_map import EpochValues, color_scale, heat_map, highest_cell
from stepcredit.report.markup import details, figure, gallery, note, section, subsection, table
from stepcredit.report.metrics import Row, numbers, value

CREDIT = "credit_profile"
PROFILES = {"credit": CREDIT, "sampler": "native_scale", "update": "update_profile"}
"""The key in metrics.jsonl of each profile, by its label."""
_TITLE = "Weight of each denoising step"
_STEPS = "denoising step"
_MAX_TABLE_STEPS = 200
_MEANINGS = {
    "credit": "<em>Credit</em>: mean |step advantage|, which the credit rule decides.",
    "sampler": (
        "<em>Sampler</em>: how strongly the model output changes the log-probability of the step, "
        "|d mean / d output| / std, which does not depend on the credit rule."
    ),
    "update": "<em>Update</em>: their product, the weight of the step in the policy gradient.",
}
_SHADES = "A stronger color means that the step counts more in the updates of the epoch. 1 is an equal share."


def steps_section(rows: Sequence[Row]) -> str:
    """The step profiles of one run, averaged over its epochs, and its credit for each epoch."""
    lines = _profiles(rows)
    chart = line_chart(lines, x_label=_STEPS, y_label="weight", size=LARGE)
    if not chart:
        return ""
    return section(
        _TITLE,
        figure(chart, legend(lines), large=True),
        note(_meaning(lines)),
        _table(lines),
        _epochs(credit_by_epoch(rows)),
    )


def arms_steps(arms: Mapping[str, Sequence[Row]]) -> str:
    """The credit of several arms in one chart, then all profiles of each.

    Args:
        arms: for each arm the metrics of all its runs.
    """
    credit = [Line(name, profile(CREDIT, rows)) for name, rows in arms.items()]
    chart = line_chart(credit, x_label=_STEPS, y_label="credit", size=LARGE)
    if not chart:
        return ""
    profiles = {name: _profiles(rows) for name, rows in arms.items()}
    meaning = _meaning([line for lines in profiles.values() for line in lines])
    return subsection(
        _TITLE,
        figure(chart, f"Credit{legend(credit)}", large=True),
        note(f"{meaning} Every arm is averaged over its fresh seeds."),
        _table(credit),
        gallery(_arm(name, lines) for name, lines in profiles.items()),
        _arms_epochs(arms),
    )


def profile(key: str, rows: Iterable[Row]) -> list[Point]:
    """The mean over rows of the number that is recorded under `key` for each step."""
    return [Point(step, mean) for step, mean in enumerate(_means(rows, key)) if math.isfinite(mean)]


def credit_by_epoch(rows: Iterable[Row]) -> list[EpochValues]:
    """The credit of every epoch that recorded it, averaged over runs if `rows` come from several."""
    epochs: dict[float, list[Row]] = {}
    for row in rows:
        if math.isfinite(value(row, "epoch")) and numbers(row.get(CREDIT)):
            epochs.setdefault(value(row, "epoch"), []).append(row)
    return [EpochValues(epoch, _means(same_epoch, CREDIT)) for epoch, same_epoch in sorted(epochs.items())]


def _means(rows: Iterable[Row], key: str) -> list[float]:
    """Means step by step, over the steps that all rows with values have. NaN where no row has a number."""
    columns = zip(*(values for row in rows if (values := numbers(row.get(key)))), strict=False)
    finite = [[one for one in column if math.isfinite(one)] for column in columns]
    return [fmean(column) if column else math.nan for column in finite]


def _profiles(rows: Sequence[Row]) -> list[Line]:
    """The profiles that were recorded."""
    lines = [Line(label, profile(key, rows)) for label, key in PROFILES.items()]
    return [line for line in lines if line.points]


def _meaning(lines: Sequence[Line]) -> str:
    recorded = {line.label for line in lines}
    explained = " ".join(meaning for label, meaning in _MEANINGS.items() if label in recorded)
    return f"Each profile is scaled to mean 1 and averaged over the epochs; step 0 is the noisiest. {explained}"


def _arm(name: str, lines: Sequence[Line]) -> str:
    return figure(line_chart(lines, x_label=_STEPS, y_label=f"weight, {name}"), f"{escape(name)}{legend(lines)}")


def _epochs(epochs: Sequence[EpochValues]) -> str:
    """The heat map of one run."""
    maximum = highest_cell(epochs)
    drawn = heat_map(epochs, maximum, label="credit", size=LARGE)
    if not drawn:
        return ""
    return subsection("Credit by epoch", figure(drawn, color_scale(maximum), large=True), note(_SHADES))


def _arms_epochs(arms: Mapping[str, Sequence[Row]]) -> str:
    """A heat map for each arm, all with the same color scale."""
    epochs = {name: credit_by_epoch(rows) for name, rows in arms.items()}
    maximum = max(map(highest_cell, epochs.values()))
    maps = (
        figure(heat_map(values, maximum, label=f"credit, {name}"), f"{escape(name)}{color_scale(maximum)}")
        for name, values in epochs.items()
    )
    return f"{gallery(maps)}\n{note(_SHADES)}"


def _table(lines: Sequence[Line]) -> str:
    """The values of the chart as a table, unless there are too many."""
    columns = {line.label: {point.x: number(point.y, 3) for point in line.points} for line in lines if line.points}
    steps = sorted({step for column in columns.values() for step in column})
    if len(steps) > _MAX_TABLE_STEPS:
        return ""
    body = [[f"{step:g}", *(column.get(step, "") for column in columns.values())] for step in steps]
    return details("Show as a table", table([["step", *columns], *body], "Weight of each step"))
