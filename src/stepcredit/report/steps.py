"""How much each denoising step counted: credit, the sampler's own scale, and their product."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from statistics import fmean

from stepcredit.report.axes import LARGE, number
from stepcredit.report.charts import Line, Point, keys, line_chart
from stepcredit.report.heat import Strip, heat_map, highest, scale
from stepcredit.report.markup import details, figure, gallery, note, part, section, table
from stepcredit.report.rows import Row, numbers, value

CREDIT = "credit_profile"
PROFILES = {"credit": CREDIT, "sampler": "native_scale", "update": "update_profile"}
_TITLE = "Which steps are trained"
_STEPS = "denoising step"
_TABLED = 200  # steps that are still listed one by one
_MEANING = (
    "Each scaled to mean 1, averaged over the epochs; step 0 is the noisiest. <em>Credit</em>: mean |step advantage|, "
    "the rule’s doing. <em>Sampler</em>: how strongly the model output moves the step’s log-probability, "
    "|d mean / d output| / std, whatever the rule. <em>Update</em>: their product, what the policy gradient weighs the "
    "step by."
)
_SHADES = "The stronger the color, the more the step counts in the epoch’s updates; 1 is a step’s fair share."


def steps_section(rows: Sequence[Row]) -> str:
    """Of one run: the profiles averaged over its epochs, and its credit epoch by epoch."""
    lines = _profiles(rows)
    chart = line_chart(lines, x_label=_STEPS, y_label="weight", size=LARGE)
    if not chart:
        return ""
    return section(_TITLE, figure(chart, keys(lines), large=True), note(_MEANING), _table(lines), _epochs(strips(rows)))


def arms_steps(arms: Mapping[str, Sequence[Row]]) -> str:
    """Of several arms, each with the rows of all its runs: credit beside each other, then all profiles of each."""
    credit = [Line(name, profile(CREDIT, rows)) for name, rows in arms.items()]
    chart = line_chart(credit, x_label=_STEPS, y_label="credit", size=LARGE)
    if not chart:
        return ""
    return part(
        _TITLE,
        figure(chart, f"Credit{keys(credit)}", large=True),
        note(f"{_MEANING} Of every arm the mean over its fresh seeds."),
        _table(credit),
        gallery(_arm(name, rows) for name, rows in arms.items()),
        _arms_epochs(arms),
    )


def profile(recorded: str, rows: Iterable[Row]) -> list[Point]:
    """The mean over rows of a number per step."""
    return [Point(step, mean) for step, mean in enumerate(_means(rows, recorded)) if math.isfinite(mean)]


def strips(rows: Iterable[Row]) -> list[Strip]:
    """The credit of every epoch that recorded it, averaged over the runs that `rows` are of."""
    epochs: dict[float, list[Row]] = {}
    for row in rows:
        if math.isfinite(value(row, "epoch")) and numbers(row.get(CREDIT)):
            epochs.setdefault(value(row, "epoch"), []).append(row)
    return [Strip(epoch, _means(found, CREDIT)) for epoch, found in sorted(epochs.items())]


def _means(rows: Iterable[Row], recorded: str) -> list[float]:
    """Step by step, over the steps that all rows with any have; NaN where none of them is a number."""
    columns = zip(*(values for row in rows if (values := numbers(row.get(recorded)))), strict=False)
    finite = [[one for one in column if math.isfinite(one)] for column in columns]
    return [fmean(column) if column else math.nan for column in finite]


def _profiles(rows: Sequence[Row]) -> list[Line]:
    return [Line(label, profile(recorded, rows)) for label, recorded in PROFILES.items()]


def _arm(name: str, rows: Sequence[Row]) -> str:
    lines = _profiles(rows)
    return figure(line_chart(lines, x_label=_STEPS, y_label=f"weight, {name}"), f"{escape(name)}{keys(lines)}")


def _epochs(found: Sequence[Strip]) -> str:
    """The heat map of one run."""
    most = highest(found)
    drawn = heat_map(found, most, what="credit", size=LARGE)
    return part("Step credit, epoch by epoch", figure(drawn, scale(most), large=True), note(_SHADES)) if drawn else ""


def _arms_epochs(arms: Mapping[str, Sequence[Row]]) -> str:
    """A heat map for each arm, with shades that mean the same in all."""
    found = {name: strips(rows) for name, rows in arms.items()}
    most = max(map(highest, found.values()))
    maps = (
        figure(heat_map(one, most, what=f"credit, {name}"), f"{escape(name)}{scale(most)}")
        for name, one in found.items()
    )
    return f"{gallery(maps)}\n{note(_SHADES)}"


def _table(lines: Sequence[Line]) -> str:
    """The same figures to read."""
    columns = {line.label: {point.x: number(point.y, 3) for point in line.points} for line in lines if line.points}
    steps = sorted({step for column in columns.values() for step in column})
    if len(steps) > _TABLED:
        return ""
    body = [[f"{step:g}", *(column.get(step, "") for column in columns.values())] for step in steps]
    return details("These figures as a table", table([["step", *columns], *body], "Weight of each step"))
