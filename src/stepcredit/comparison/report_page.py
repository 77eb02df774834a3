"""A comparison as HTML: for each reward its curves, tables, step credit and samples; every string escaped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from stepcredit.comparison.directory import ComparisonDirectory
from stepcredit.comparison.records import Samples, fresh_runs, rows_by_arm, samples
from stepcredit.comparison.tables import Table, caveats, notes, tables, title
from stepcredit.report.axes import LARGE
from stepcredit.report.charts import Line, Point, keys, line_chart
from stepcredit.report.markup import bullets, facts, figure, gallery, note, origin, part, section, table
from stepcredit.report.page import page
from stepcredit.report.pictures import side_by_side
from stepcredit.report.rows import drawable
from stepcredit.report.steps import arms_steps
from stepcredit.stats.intervals import LEVEL

Results = Mapping[str, Any]
Arms = Mapping[str, Mapping[str, Any]]
_QUERIES = "reward queries"


def page_of(
    directory: ComparisonDirectory, name: str, results: Results, begun: Mapping[str, Any], protocol: str
) -> str:
    """The page of what results.json holds.

    Args:
        begun: the environment in which the comparison was begun, with the command.
        protocol: as YAML text.
    """
    sections = [
        *(_reward(directory, results, reward, found) for reward, found in results["rewards"].items()),
        section("How to read it", bullets(notes(results))),
        origin(begun, protocol, "Protocol"),
    ]
    return page(name, _verdict(results), facts(_summary(results)), sections)


def _verdict(results: Results) -> str:
    decided = results["protocol"]
    counts = [_counted(len(decided[what]), what[:-1]) for what in ("arms", "rewards")]
    fresh = _counted(len(decided["fresh_seeds"]), "fresh seed")
    tuned = "learning rates were chosen on other seeds" if decided["tuning_seeds"] else "no learning rate was tuned"
    reference = f"<em>{escape(results['reference'])}</em>"
    return f"{counts[0]} on {counts[1]} with {fresh}, measured against {reference}; {tuned}."


def _summary(results: Results) -> dict[str, str]:
    decided = results["protocol"]
    sample, train = decided["base"]["sample"], decided["base"]["train"]
    return {
        "Model": f"{decided['base']['model']['path']}, {decided['base']['model']['adapter']}",
        "Prompts": str(decided["base"]["prompts"]["source"]),
        "Each epoch": f"{sample['prompts_per_epoch'] or 'all'} prompts × {sample['images_per_prompt']} images × "
        f"{sample['steps']} steps",
        "Training": f"{train['epochs']} epochs × {train['updates_per_epoch'] * train['inner_epochs']} updates",
        "Arms": ", ".join(_arm(name, changed) for name, changed in decided["arms"].items()),
        "Criterion": f"mean reward of the last {results['last_epochs']} epochs",
        "Seeds": f"fresh {_listed(decided['fresh_seeds'])}; for learning rates {_listed(decided['tuning_seeds'])}",
        "Watched": _listed(decided["watch"]),
    }


def _reward(directory: ComparisonDirectory, results: Results, reward: str, found: Mapping[str, Any]) -> str:
    arms = found["arms"]
    runs = fresh_runs(directory, reward, arms)
    return section(
        escape(reward),
        note(f"{escape(title(results, reward, found).removeprefix(f'{reward}: '))}."),
        bullets((line.removeprefix("(").removesuffix(")") for line in caveats(results, found)), "caveats"),
        _curves(reward, arms),
        *(table(one, f"{reward}: {one[0][0]}") for one in tables(results, found)),
        _rates(arms),
        arms_steps(rows_by_arm(runs)),
        _samples(samples(runs)),
    )


def _curves(reward: str, arms: Arms) -> str:
    """Reward against queries and against seconds, and what was watched meanwhile."""
    lines = curve_lines(arms, "queries", "mean")
    chart = line_chart(lines, x_label=_QUERIES, y_label=reward, size=LARGE)
    if not chart:
        return ""
    watched = dict.fromkeys(name for arm in arms.values() for name in arm["curve"]["watched"])
    beside = [
        _beside(curve_lines(arms, "seconds", "mean"), "seconds", reward),
        *(_beside(curve_lines(arms, "queries", name), _QUERIES, name) for name in watched),
    ]
    meaning = (
        f"Mean over the fresh seeds of an epoch’s mean reward, unsmoothed; the band is the {LEVEL:.0%} bootstrap "
        "interval over seeds, none where there is one seed only. Against seconds, every epoch is at the mean of its "
        "seeds. Watched rewards are measured on the same images and not trained on."
    )
    drawn = figure(chart, f"Mean reward{keys(lines)}", large=True)
    return f"{drawn}\n{gallery(beside)}\n{note(meaning)}"


def curve_lines(arms: Arms, along: str, what: str) -> list[Line]:
    """Of every arm in results.json `mean` with its band, or a watched reward, along `queries` or `seconds`."""
    return [Line(name, _points(arm["curve"], along, what)) for name, arm in arms.items()]


def _beside(lines: Sequence[Line], x_label: str, y_label: str) -> str:
    return figure(line_chart(lines, x_label=x_label, y_label=y_label), f"{escape(y_label)} against {x_label}")


def _points(curve: Mapping[str, Any], along: str, what: str) -> list[Point]:
    places = map(drawable, curve[along])
    if what != "mean":
        return [Point(x, drawable(y)) for x, y in zip(places, curve["watched"].get(what, []), strict=False)]
    values = zip(places, curve["mean"], curve["low"], curve["high"], strict=True)
    return [Point(x, drawable(y), drawable(low), drawable(high)) for x, y, low, high in values]


def _rates(arms: Arms) -> str:
    """What every rate of the grid came to on the tuning seeds, and which was chosen."""
    grids = {name: {one["learning_rate"]: one["mean"] for one in arm["tuning"]["grid"]} for name, arm in arms.items()}
    rates = sorted({rate for grid in grids.values() for rate in grid})
    if not rates:
        return ""
    lines: Table = [["arm", *(f"{rate:g}" for rate in rates), "chosen"]]
    for name, arm in arms.items():
        chosen = arm["tuning"]["learning_rate"]
        own = "none" if chosen is None else f"{chosen:g}"
        lines.append([name, *(_mean(grids[name].get(rate)) for rate in rates), own])
    meaning = "The criterion of each learning rate, mean over the tuning seeds, which are used for nothing else."
    return part("Learning rates", table(lines, "Learning rates"), note(meaning))


def _samples(found: Samples) -> str:
    meaning = f"Seed {found.seed}: the same prompts and the same noise for every arm."
    return part("Samples", note(meaning), side_by_side(found.pictures)) if found.pictures else ""


def _mean(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _arm(name: str, changed: Mapping[str, Any]) -> str:
    """What it changes, unless that is its name."""
    overrides = ", ".join(f"{key}={value}" for key, value in changed.items() if (key, value) != ("credit.name", name))
    return f"{name} ({overrides})" if overrides else name


def _listed(values: Sequence[Any]) -> str:
    return ", ".join(map(str, values)) or "none"


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
