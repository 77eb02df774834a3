"""The page of one run: what was recorded in, HTML out, every string from outside escaped."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from stepcredit.config import ComponentSection, RewardSection, TrainConfig
from stepcredit.report.axes import LARGE, number
from stepcredit.report.charts import Line, Point, keys, line_chart
from stepcredit.report.markup import facts, figure, gallery, note, origin, section
from stepcredit.report.page import page
from stepcredit.report.pictures import Picture, side_by_side
from stepcredit.report.rows import SECONDS, Row, duration, finite, mapping, read, seconds, value
from stepcredit.report.steps import PROFILES, steps_section

_QUERIES = "reward queries"
_TITLES = {
    "approx_kl": "Approximate KL to the sampling policy",
    "clip_fraction": "Clip fraction",
    "grad_norm": "Gradient norm",
    "ratio_max_deviation": "Largest |ratio − 1|",
}
_ELSEWHERE = {"epoch", "reward_queries", "reward_mean", "reward_std", "peak_memory_bytes", *PROFILES.values()}


def run_page(
    name: str,
    config: TrainConfig,
    config_text: str,
    environment: Mapping[str, Any],
    rows: Sequence[Row],
    pictures: Sequence[Picture],
) -> str:
    """The page. `rows` are all epochs in order, `pictures` the sample grids; those and `environment` may be empty."""
    sections = [
        _reward(rows),
        _components(config.reward, rows),
        section("Samples", side_by_side(pictures)),
        steps_section(rows),
        _curves(rows),
        origin(environment, config_text, "Configuration"),
    ]
    return page(name, verdict(rows), facts(_summary(config)), sections)


def verdict(rows: Sequence[Row]) -> str:
    """What the run came to, in one sentence of HTML."""
    if not rows:
        return "No epoch has finished yet."
    first, last = rows[0], rows[-1]
    queries = value(last, "reward_queries")
    asked = f"{queries:,.0f}" if math.isfinite(queries) else "unknown"
    spent = f"{asked} reward queries and {duration(seconds(rows))}"
    if len(rows) == 1:
        return f"Mean reward {read(last, 'reward_mean')} in epoch {read(last, 'epoch')}, after {spent}."
    gain = value(last, "reward_mean") - value(first, "reward_mean")
    change = f" ({'+' if gain > 0 else ''}{number(gain)})" if math.isfinite(gain) else ""
    return (
        f"Mean reward {read(first, 'reward_mean')} in epoch {read(first, 'epoch')} → "
        f"{read(last, 'reward_mean')} in epoch {read(last, 'epoch')}{change}, after {spent}."
    )


def _summary(config: TrainConfig) -> dict[str, str]:
    sample, train, credit = config.sample, config.train, config.credit
    return {
        "Model": f"{config.model.path}, {config.model.adapter}",
        "Reward": _reward_name(config.reward),
        "Credit": f"{credit.name}, window {credit.window}, alpha {credit.alpha:g}",
        "Prompts": config.prompts.source,
        "Each epoch": f"{sample.prompts_per_epoch or 'all'} prompts × {sample.images_per_prompt} images × "
        f"{sample.steps} steps",
        "Training": f"{train.epochs} epochs × {train.updates_per_epoch * train.inner_epochs} updates, "
        f"learning rate {train.learning_rate:g}, clip range {train.clip_range:g}",
        "Guidance": f"{sample.guidance:g}",
        "Seed": str(config.run.seed),
    }


def _reward(rows: Sequence[Row]) -> str:
    points = [
        Point.around(value(row, "reward_queries"), value(row, "reward_mean"), finite(value(row, "reward_std")))
        for row in rows
    ]
    svg = line_chart([Line("mean reward", points)], x_label=_QUERIES, y_label="mean reward", size=LARGE)
    if not svg:
        return ""
    meaning = (
        "Mean over the images an epoch was trained on, drawn before its updates; the band is one standard deviation of "
        "the images to each side. Not a held-out evaluation."
    )
    return section("Reward", figure(svg, large=True), note(meaning))


def _components(reward: RewardSection, rows: Sequence[Row]) -> str:
    """A chart for each reward of a mixture: its own scores, on its own scale."""
    figures = gallery(_component(one, rows) for one in reward.components)
    meaning = (
        "Each reward’s own scores, before weights and standardization; the band is one standard deviation. One that "
        "falls while another rises is being paid for it. The mean reward above is the weighted sum of these scores, "
        "without the standardization per prompt that training adds (its mean would always be 0)."
    )
    return section("Rewards of the mixture", figures, note(meaning)) if figures else ""


def _component(one: ComponentSection, rows: Sequence[Row]) -> str:
    figures = [(row, mapping(mapping(row.get("reward_components")).get(one.called))) for row in rows]
    points = [
        Point.around(value(row, "reward_queries"), value(scores, "mean"), finite(value(scores, "std")))
        for row, scores in figures
    ]
    svg = line_chart([Line(one.called, points)], x_label=_QUERIES, y_label=one.called)
    title = escape(f"{one.called}, weight {number(one.weight)}")
    return figure(svg, f"{title}{_change(points)}") if svg else ""


def _change(points: Sequence[Point]) -> str:
    """`: first → last` of the finite values."""
    known = [point.y for point in points if math.isfinite(point.y)]
    return f": {number(known[0])} → {number(known[-1])}"


def _reward_name(reward: RewardSection) -> str:
    parts = ", ".join(f"{number(one.weight)} × {one.called}" for one in reward.components)
    return f"{reward.name} of {parts}" if parts else reward.name


def _curves(rows: Sequence[Row]) -> str:
    """A small chart per recorded number, the best known first."""
    recorded = dict.fromkeys(name for row in rows for name in row if name not in _ELSEWHERE)
    timed = [name for name in recorded if name.startswith(SECONDS)]
    others = sorted(recorded.keys() - _TITLES.keys() - set(timed))
    figures = [
        *(_curve(_TITLES.get(name, name), [_line(name, name, rows)]) for name in (*_TITLES, *others)),
        _curve("Seconds", [_line(name.removeprefix(SECONDS), name, rows) for name in timed]),
        _curve("Peak memory, GiB", [_line("peak memory", "peak_memory_bytes", rows, scale=2.0**-30)]),
    ]
    return section("Each epoch", gallery(figures))


def _line(label: str, name: str, rows: Sequence[Row], scale: float = 1.0) -> Line:
    return Line(label, [Point(value(row, "epoch"), scale * value(row, name)) for row in rows])


def _curve(title: str, lines: Sequence[Line]) -> str:
    named = keys(lines) if len(lines) > 1 else ""
    return figure(line_chart(lines, x_label="epoch", y_label=title), f"{escape(title)}{named}")
