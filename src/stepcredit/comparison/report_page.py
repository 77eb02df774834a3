"""The HTML page of a comparison: curves, tables, step credit and samples for each reward. Every string is escaped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from stepcredit.comparison.arm_defaults import settings_text
from stepcredit.comparison.directory import ComparisonDirectory
from stepcredit.comparison.records import Samples, fresh_runs, rows_by_arm, sample_grids
from stepcredit.comparison.tables import Table, caveats, last_epochs, notes, tables, title
from stepcredit.report.axes import LARGE
from stepcredit.report.charts import Line, Point, legend, line_chart
from stepcredit.report.markup import bullets, facts, figure, gallery, note, origin, section, subsection, table
from stepcredit.report.metrics import drawable
from stepcredit.report.page import page
from stepcredit.report.sample_grids import side_by_side
from stepcredit.report.step_profiles import arms_steps
from stepcredit.stats.intervals import LEVEL

Results = Mapping[str, Any]
Arms = Mapping[str, Mapping[str, Any]]
_QUERIES = "reward queries"


def comparison_page(
    directory: ComparisonDirectory, name: str, results: Results, begun: Mapping[str, Any], protocol: str
) -> str:
    """The page of what results.json holds.

    Args:
        begun: the environment and the command with which the comparison was started.
        protocol: as YAML text.
    """
    sections = [
        *(_reward(directory, results, reward, result) for reward, result in results["rewards"].items()),
        section("How to read it", bullets(notes(results))),
        origin(begun, protocol, "Protocol"),
    ]
    return page(name, _verdict(results), facts(_summary(results)), sections)


def _verdict(results: Results) -> str:
    protocol = results["protocol"]
    arms, rewards = (_plural(len(protocol[key]), key[:-1]) for key in ("arms", "rewards"))
    seeds = _plural(len(protocol["fresh_seeds"]), "fresh seed")
    grids = [arm["tuning"]["grid"] for result in results["rewards"].values() for arm in result["arms"].values()]
    tuned = "settings were chosen on other seeds" if any(grids) else "nothing was tuned"
    reference = f"<em>{escape(results['reference'])}</em>"
    return f"{arms} on {rewards} with {seeds}, compared with {reference}; {tuned}."


def _summary(results: Results) -> dict[str, str]:
    protocol = results["protocol"]
    sample, train = protocol["base"]["sample"], protocol["base"]["train"]
    fresh, tuning = _listed(protocol["fresh_seeds"]), _listed(protocol["tuning_seeds"])
    defaults = protocol.get("model_defaults", {})
    return {
        "Model": f"{protocol['base']['model']['path']}, {protocol['base']['model']['adapter']}",
        "Prompts": str(protocol["base"]["prompts"]["source"]),
        "Each epoch": f"{sample['prompts_per_epoch'] or 'all'} prompts × {sample['images_per_prompt']} images × "
        f"{sample['steps']} steps",
        "Training": f"{train['epochs']} epochs × {train['updates_per_epoch'] * train['inner_epochs']} updates",
        "Arms": ", ".join(_arm(name, overrides) for name, overrides in protocol["arms"].items()),
        **{f"Defaults of {name}": settings_text(values) for name, values in defaults.items()},
        "Criterion": f"mean reward of the last {last_epochs(results)}",
        "Seeds": f"{fresh} for the comparison; {tuning} for tuning",
        "Watched": _listed(protocol["watch"]),
        **_evaluated(protocol.get("evaluate")),
    }


def _evaluated(plan: Mapping[str, Any] | None) -> dict[str, str]:
    images = "" if plan is None else _plural(plan["images"], "image")
    return {} if plan is None else {"Evaluated on": f"{_listed(plan['prompts'])}; {images} per prompt"}


def _reward(directory: ComparisonDirectory, results: Results, reward: str, result: Mapping[str, Any]) -> str:
    arms = result["arms"]
    runs = fresh_runs(directory, reward, arms)
    return section(
        escape(reward),
        note(f"{escape(title(results, reward, result).removeprefix(f'{reward}: '))}."),
        bullets(caveats(results, result), "caveats"),
        _curves(reward, arms),
        *(table(one, f"{reward}: {one[0][0]}") for one in tables(results, result)),
        _tuning(arms),
        arms_steps(rows_by_arm(runs)),
        _samples(sample_grids(runs)),
    )


def _curves(reward: str, arms: Arms) -> str:
    """Reward against queries and against seconds, and the watched rewards."""
    lines = curve_lines(arms, "queries", "mean")
    chart = line_chart(lines, x_label=_QUERIES, y_label=reward, size=LARGE)
    if not chart:
        return ""
    watched = dict.fromkeys(name for arm in arms.values() for name in arm["curve"]["watched"])
    small = [
        _small_chart(curve_lines(arms, "seconds", "mean"), "seconds", reward),
        *(_small_chart(curve_lines(arms, "queries", name), _QUERIES, name) for name in watched),
    ]
    meaning = (
        f"Mean over the fresh seeds of the mean reward of each epoch, not smoothed. The band is the {LEVEL:.0%} "
        "interval over seeds; a single seed has none. Seconds are the mean over seeds at each epoch. Watched rewards "
        "are measured on the same images and not trained on."
    )
    return f"{figure(chart, f'Mean reward{legend(lines)}', large=True)}\n{gallery(small)}\n{note(meaning)}"


def curve_lines(arms: Arms, x: str, y: str) -> list[Line]:
    """A line for every arm in results.json.

    Args:
        x: `queries` or `seconds`.
        y: `mean`, which has a band, or the name of a watched reward.
    """
    return [Line(name, _points(arm["curve"], x, y)) for name, arm in arms.items()]


def _small_chart(lines: Sequence[Line], x_label: str, y_label: str) -> str:
    return figure(line_chart(lines, x_label=x_label, y_label=y_label), f"{escape(y_label)} against {x_label}")


def _points(curve: Mapping[str, Any], x: str, y: str) -> list[Point]:
    positions = map(drawable, curve[x])
    if y != "mean":
        return [Point(x, drawable(y)) for x, y in zip(positions, curve["watched"].get(y, []), strict=False)]
    values = zip(positions, curve["mean"], curve["low"], curve["high"], strict=True)
    return [Point(x, drawable(y), drawable(low), drawable(high)) for x, y, low, high in values]


def _tuning(arms: Arms) -> str:
    """The criterion of every setting on the tuning seeds, and the setting that was chosen."""
    grids = {name: {_setting(one): one["mean"] for one in arm["tuning"]["grid"]} for name, arm in arms.items()}
    settings = sorted({setting for grid in grids.values() for setting in grid})
    if not settings:
        return ""
    clips = len({clip for _, clip in settings}) > 1
    lines: Table = [["arm", *(_label(setting, clips) for setting in settings), "chosen"]]
    for name, arm in arms.items():
        failed = arm["tuning"]["learning_rate"] is None
        chosen = "none" if failed else _label(_setting(arm["tuning"]), clips)
        lines.append([name, *(_mean(grids[name].get(setting)) for setting in settings), chosen])
    meaning = "Criterion of each setting, mean over the tuning seeds, which are used only for this choice."
    return subsection("Tuning", table(lines, "Tuning"), note(meaning))


def _setting(tuning: Mapping[str, Any]) -> tuple[float, float]:
    """Learning rate and clip range; version 0.1 did not record the clip range."""
    return tuning["learning_rate"], tuning.get("clip_range") or 0.0


def _label(setting: tuple[float, float], clips: bool) -> str:
    rate, clip = setting
    return f"{rate:g}, clip {clip:g}" if clips else f"{rate:g}"


def _samples(samples: Samples) -> str:
    meaning = f"Seed {samples.seed}, with the same prompts and the same noise for every arm."
    return subsection("Samples", note(meaning), side_by_side(samples.grids)) if samples.grids else ""


def _mean(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _arm(name: str, changed: Mapping[str, Any]) -> str:
    """The arm with its overrides, unless its name is all that it overrides."""
    overrides = ", ".join(f"{key}={value}" for key, value in changed.items() if (key, value) != ("credit.name", name))
    return f"{name} ({overrides})" if overrides else name


def _listed(values: Sequence[Any]) -> str:
    return ", ".join(map(str, values)) or "none"


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
