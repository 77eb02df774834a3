"""Make the page of `scaling.py`: the table, a description of each fitted law, and the plot."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from _panels import PANEL, side_by_side
from _scaling_laws import Cost, Law, Measured

from stepcredit.report.charts import Line, Point, line_chart

PHASES = ("sampling", "training")
LINEAR = 0.1
"""A law is linear if no median deviates from the line by more than this fraction."""
FLAT = 0.1
"""A cost is constant if it changes by no more than this fraction over the measured range."""
STYLE = (
    "tspan.s0 { fill: var(--s0); } tspan.s1 { fill: var(--s1); } .s1 .line { stroke-dasharray: none; } "
    ".s2 .line, .s3 .line { stroke: var(--faint); stroke-dasharray: 2 3; } .s2 .dot, .s3 .dot { display: none; }"
)
"""The style of the fitted lines and the legend."""

HEAD = """# Scaling

Use this page to estimate how the cost of a reward query grows with batch size, steps, resolution, LoRA rank and number
of processes. `benchmarks/scaling.py` wrote the page and its plot; do not edit them by hand. [Speed](speed.md) describes
the other benchmarks.

The work is one rollout with decoding and one LoRA update over all images and steps, without a reward. The model is a
tiny Stable Diffusion with 1.8M random weights, with guidance 5, in float32 on one thread. Fixed values: {base}.

Every number is per query: the median over rounds, with the range in brackets. CPU-ms are milliseconds of CPU time; ms
are wall-clock time. The points of a law are measured in turn. Other work on the machine affects wall-clock time, and
therefore the rows for processes.

A line a + b x is fitted to the medians with the smallest relative error. A law is called linear if all medians are
within {linear:.0%} of the line. The power is the exponent of x that explains the change from the first point to the
last.

The absolute numbers hold for this small model on this machine only. The form of each law should hold for larger models
too, but was not measured there. On a GPU, measure again with `benchmarks/gpu.py`.
"""


class Fit(NamedTuple):
    """y = intercept + slope x; `deviation` is the largest |y - line| / line."""

    intercept: float
    slope: float
    deviation: float

    def __call__(self, x: float) -> float:
        return self.intercept + self.slope * x


def fit(x: Sequence[float], y: Sequence[float]) -> Fit:
    """The line through (x, y > 0) with the least sum of squared errors relative to y."""
    slope, intercept = np.polyfit(x, y, 1, w=1 / np.array(y))
    line = intercept + slope * np.array(x)
    return Fit(float(intercept), float(slope), float(np.max(np.abs(np.array(y) / line - 1))))


def series(costs: Sequence[Sequence[Cost]], phase: str, clock: str) -> list[list[float]]:
    """Milliseconds per query: for each value of a law, one per round."""
    return [[getattr(getattr(cost, phase), clock) for cost in rounds] for rounds in costs]


def fits(law: Law, costs: Sequence[Sequence[Cost]]) -> dict[str, Fit]:
    """The fitted line of each phase."""
    x = [law.x(value) for value in law.values]
    return {phase: fit(x, [*map(statistics.median, series(costs, phase, law.clock))]) for phase in PHASES}


def page(laws: Sequence[Law], measured: Measured, setting: str) -> str:
    base = laws[0].base
    fixed = f"{base.steps} steps, latents of {base.latent}x{base.latent}, LoRA of rank {base.rank}, one process"
    images = " or ".join(str(count) for count in sorted({law.base.images for law in laws}))
    parts = [HEAD.format(base=f"{fixed}, {images} images in one batch", linear=LINEAR), *tables(laws, measured)]
    return "\n".join([*parts, "", "![cost against each](images/scaling.svg)", "", f"Machine: {setting}.", ""])


def tables(laws: Sequence[Law], measured: Measured) -> list[str]:
    """The measurements as one Markdown table, followed by a description of each law."""
    lines = [
        "| law | | sampling, CPU-ms | sampling, ms | training, CPU-ms | training, ms | peak memory, MB |",
        "|---|---|---|---|---|---|---|",
    ]
    for law in laws:
        costs = measured[law.name]
        for index, value in enumerate(law.values):
            cells = [spread(series(costs, phase, clock)[index]) for phase in PHASES for clock in ("cpu", "wall")]
            peak = spread([cost.peak for cost in costs[index]])
            lines.append(f"| {law.name} | {value} | {' | '.join(cells)} | {peak} |")
    return [*lines, *(line for law in laws for line in ("", *sentences(law, measured[law.name])))]


def spread(values: Sequence[float]) -> str:
    """The median, and the range if there is more than one value."""
    middle = number(statistics.median(values))
    return middle if len(values) == 1 else f"{middle} ({number(min(values))}–{number(max(values))})"


def number(value: float) -> str:
    """Three significant digits without an exponent.

    >>> [number(value) for value in (0.01234, 12.345, 1234.5)]
    ['0.0123', '12.3', '1234']
    """
    return (f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}").replace("-", "−")


def sentences(law: Law, costs: Sequence[Sequence[Cost]]) -> Iterator[str]:
    """The fitted lines and the peak memory of a law in words, with the reason for the law."""
    unit = "CPU-ms" if law.clock == "cpu" else "ms"
    yield f"**{law.name[0].upper() + law.name[1:]}.** {law.reason}"
    yield ""
    for phase, line in fits(law, costs).items():
        sign = "−" if line.slope < 0 else "+"
        deviation = f"{line.deviation:.0%}"
        verdict = (
            f"linear within {deviation}" if line.deviation <= LINEAR else f"not linear: deviates by up to {deviation}"
        )
        yield (
            f"- {phase}: {number(line.intercept)} {sign} {number(abs(line.slope))} × ({law.formula}) {unit} per query, "
            f"{verdict}. {growth(law, phase, costs)}"
        )
    low, high = (statistics.median(cost.peak for cost in costs[end]) for end in (0, -1))
    yield f"- peak memory: {number(low)} MB at {law.values[0]}, {number(high)} MB at {law.values[-1]}."


def growth(law: Law, phase: str, costs: Sequence[Sequence[Cost]]) -> str:
    """How the cost changed from the first value of the law to the last, with the exponent of x."""
    clock = "CPU time" if law.clock == "cpu" else "wall time"
    first, last = (statistics.median(series(costs, phase, law.clock)[end]) for end in (0, -1))
    ends = f"From {law.values[0]} to {law.values[-1]}"
    change = last / first
    if abs(change - 1) <= FLAT:
        return f"{ends}, {clock} per query stays within {FLAT:.0%}."
    x_change = law.x(law.values[-1]) / law.x(law.values[0])
    power = math.log(change) / math.log(x_change)
    text = (
        f"{ends}, {clock} per query changes {change:.2f}-fold and {law.formula} {x_change:.3g}-fold: power {power:.2f}."
    )
    return text.replace("-0.", "−0.")


def chart(laws: Sequence[Law], measured: Measured) -> str:
    """An SVG with one panel per law: the measured points with their range, and the fitted lines."""
    charts = [
        (f"{law.name}: {'CPU-ms' if law.clock == 'cpu' else 'ms'} per query", _panel(law, measured[law.name]))
        for law in laws
    ]
    legend = '<tspan class="s0">■</tspan> sampling <tspan class="s1">■</tspan> training, '
    return side_by_side(charts, f"{legend}with the range over rounds; dotted: a + b x", columns=3, style=STYLE)


def _panel(law: Law, costs: Sequence[Sequence[Cost]]) -> str:
    measurements = [
        Line(phase, [_point(law.values[index], values) for index, values in enumerate(series(costs, phase, law.clock))])
        for phase in PHASES
    ]
    lines = [
        Line(f"{phase}, fitted", [Point(value, line(law.x(value))) for value in law.values])
        for phase, line in fits(law, costs).items()
    ]
    return line_chart([*measurements, *lines], x_label=law.field, y_label="cost", size=PANEL)


def _point(value: float, rounds: Sequence[float]) -> Point:
    """The middle of the range over rounds, with half its height as error."""
    return Point(value, (min(rounds) + max(rounds)) / 2, (max(rounds) - min(rounds)) / 2)
