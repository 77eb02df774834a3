"""The HTML page of one run. Every string from the run is escaped.

The page knows no algorithm and no credit rule: it draws every number that metrics.jsonl holds, under its own name.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from stepcredit.config import RewardSection, TrainConfig
from stepcredit.report.axes import LARGE, number
from stepcredit.report.charts import Line, Point, legend, line_chart
from stepcredit.report.markup import bullets, facts, figure, gallery, note, origin, section
from stepcredit.report.metrics import SECONDS, Row, as_text, duration, finite, mapping, total_seconds, value
from stepcredit.report.page import page
from stepcredit.report.sample_grids import SampleGrid, side_by_side
from stepcredit.report.step_profiles import PROFILES, steps_section

_QUERIES = "reward queries"
_DIGESTS = ("inputs", "from")
_MAX_TAGS = 40
_DRAWN_ELSEWHERE = {"epoch", "reward_queries", "reward_mean", "reward_std", "peak_memory_bytes", *PROFILES.values()}


def run_page(
    name: str,
    config: TrainConfig,
    config_text: str,
    environment: Mapping[str, Any],
    rows: Sequence[Row],
    grids: Sequence[SampleGrid],
    history: Sequence[Mapping[str, Any]] = (),
) -> str:
    """The page of a run.

    Args:
        history: the events of history.jsonl.
        environment: what environment.json holds; may be empty.
        rows: the metrics of all epochs in order; may be empty.
        grids: sample grids; may be empty.
    """
    sections = [
        _reward(rows),
        _components(config.reward, rows),
        _tags(rows),
        section("Samples", side_by_side(grids)),
        steps_section(rows),
        _metrics(rows),
        _history(environment, history),
        origin({key: known for key, known in environment.items() if key not in _DIGESTS}, config_text, "Configuration"),
    ]
    return page(name, _verdict(rows), facts(_summary(config)), sections)


def _history(environment: Mapping[str, Any], events: Sequence[Mapping[str, Any]]) -> str:
    """Where the weights came from, and what was changed when the run was resumed."""
    source = mapping(environment.get("from"))
    lines = [f"Started from the weights of {source.get('run')}, epoch {source.get('epoch')}."] if source else []
    for event in events:
        changes = event.get("changes")
        parts = [
            f"{change.get('key')} {change.get('before')} → {change.get('after')}"
            f"{' (changes the results)' if change.get('affects_results') else ''}"
            for change in (changes if isinstance(changes, list) else [])
            if isinstance(change, dict)
        ] + [f"other {name} (changes the results)" for name in mapping(event.get("inputs"))]
        lines.append(f"Resumed after epoch {event.get('epoch')} with {'; '.join(parts)}.")
    return section("History", bullets(lines)) if lines else ""


def _verdict(rows: Sequence[Row]) -> str:
    """The outcome of the run in one sentence."""
    if not rows:
        return "No epoch has finished yet."
    first, last = rows[0], rows[-1]
    queries = value(last, "reward_queries")
    number_of_queries = f"{queries:,.0f}" if math.isfinite(queries) else "unknown"
    cost = f"{number_of_queries} reward queries and {duration(total_seconds(rows))}"
    end = f"{as_text(last, 'reward_mean')} in epoch {as_text(last, 'epoch')}"
    if len(rows) == 1:
        return f"Mean reward {end}, after {cost}."
    gain = value(last, "reward_mean") - value(first, "reward_mean")
    change = f" ({'+' if gain > 0 else ''}{number(gain)})" if math.isfinite(gain) else ""
    start = f"{as_text(first, 'reward_mean')} in epoch {as_text(first, 'epoch')}"
    return f"Mean reward {start} → {end}{change}, after {cost}."


def _summary(config: TrainConfig) -> dict[str, str]:
    sample, train, credit = config.sample, config.train, config.credit
    return {
        "Model": f"{config.model.path}, {config.model.adapter}",
        "Reward": _reward_name(config.reward),
        "Algorithm": train.algorithm,
        "Credit": f"{credit.name}, window {credit.window}, alpha {credit.alpha:g}",
        "Prompts": config.prompts.source,
        "Each epoch": f"{sample.prompts_per_epoch or 'all'} prompts × {sample.images_per_prompt} images × "
        f"{sample.steps} steps",
        "Training": f"{train.epochs} epochs × {train.updates_per_epoch * train.inner_epochs} updates, "
        f"learning rate {train.learning_rate:g}",
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
        "Mean over the training images of each epoch, which are sampled before its updates. The band is ± one standard "
        "deviation of the images. This is not a held-out evaluation."
    )
    return section("Reward", figure(svg, large=True), note(meaning))


def _components(reward: RewardSection, rows: Sequence[Row]) -> str:
    """A chart for each reward of a mixture, with its own scale."""
    figures = gallery(
        _nested(rows, "reward_components", component.called, f"{component.called}, weight {number(component.weight)}")
        for component in reward.components
    )
    meaning = (
        "The scores of each reward before weights and standardization. The band is ± one standard deviation. If one "
        "reward falls while another rises, the rise may come at its cost. The mean reward above is the weighted sum of "
        "these scores, without the per-prompt standardization of training, whose mean is always 0."
    )
    return section("Rewards of the mixture", figures, note(meaning)) if figures else ""


def _tags(rows: Sequence[Row]) -> str:
    """A chart for each tag of the prompts."""
    tags = list(dict.fromkeys(tag for row in rows for tag in mapping(row.get("reward_by_tag"))))
    figures = gallery(_nested(rows, "reward_by_tag", tag, tag) for tag in tags[:_MAX_TAGS])
    shown = f"the first {_MAX_TAGS} of {len(tags)} tags" if len(tags) > _MAX_TAGS else "each tag"
    meaning = f"Mean reward over the training images of the prompts of {shown}."
    return section("Reward by tag", figures, note(meaning)) if figures else ""


def _nested(rows: Sequence[Row], column: str, name: str, title: str) -> str:
    """A chart of the scores that the rows have under `name` in the mapping `column`."""
    scores = [(row, mapping(mapping(row.get(column)).get(name))) for row in rows]
    points = [
        Point.around(value(row, "reward_queries"), value(score, "mean"), finite(value(score, "std")))
        for row, score in scores
    ]
    svg = line_chart([Line(name, points)], x_label=_QUERIES, y_label=name)
    return figure(svg, f"{escape(title)}{_change(points)}") if svg else ""


def _change(points: Sequence[Point]) -> str:
    """`: first → last` of the finite values."""
    finite_values = [point.y for point in points if math.isfinite(point.y)]
    return f": {number(finite_values[0])} → {number(finite_values[-1])}"


def _reward_name(reward: RewardSection) -> str:
    parts = ", ".join(f"{number(component.weight)} × {component.called}" for component in reward.components)
    return f"{reward.name} of {parts}" if parts else reward.name


def _metrics(rows: Sequence[Row]) -> str:
    """A small chart for each recorded number, in the order in which the run recorded them."""
    recorded = dict.fromkeys(name for row in rows for name in row if name not in _DRAWN_ELSEWHERE)
    timed = [name for name in recorded if name.startswith(SECONDS)]
    figures = [
        *(_chart(name, [_line(name, name, rows)]) for name in recorded if name not in timed),
        _chart("Seconds", [_line(name.removeprefix(SECONDS), name, rows) for name in timed]),
        _chart("Peak memory, GiB", [_line("peak memory", "peak_memory_bytes", rows, scale=2.0**-30)]),
    ]
    return section("Metrics of each epoch", gallery(figures))


def _line(label: str, name: str, rows: Sequence[Row], scale: float = 1.0) -> Line:
    return Line(label, [Point(value(row, "epoch"), scale * value(row, name)) for row in rows])


def _chart(title: str, lines: Sequence[Line]) -> str:
    labels = legend(lines) if len(lines) > 1 else ""
    return figure(line_chart(lines, x_label="epoch", y_label=title), f"{escape(title)}{labels}")
