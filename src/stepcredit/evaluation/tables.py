"""Results of an evaluation as text tables."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from stepcredit.evaluation.base_and_tuned import BASE, TUNED
from stepcredit.evaluation.results import DIFFERENCE
from stepcredit.evaluation.set_statistics import set_statistics

_HEADINGS = {BASE: "base", TUNED: "tuned", DIFFERENCE: "tuned - base"}
_MAX_DIGITS = 8


def evaluation_table(evaluation: dict[str, Any]) -> str:
    """The tables of one model or run: for each prompt set one with all rewards, and one by tag for each reward."""
    tables = (
        table for prompt_set in evaluation["sets"] for table in (_set_table(prompt_set), *_tag_tables(prompt_set))
    )
    return "\n\n".join([_title(evaluation), *tables])


def cross_table(table: dict[str, Any]) -> str:
    """A row for each run, a column for each reward; the entries are tuned minus base."""
    rows, rewards = table["rows"], table["rewards"]
    lines = [["trained on", "run", "model", *rewards]]
    for row in rows:
        entries = [estimate_text(row["entries"][reward], signed=True) for reward in rewards]
        lines.append([row["trained_on"], row["run"], row["model"], *entries])
    sources = list(dict.fromkeys(row["prompts"] for row in rows))
    notes = [f"the runs have different prompts: {', '.join(sources)}"] if len(sources) > 1 else []
    models = list(dict.fromkeys(row["model"] for row in rows))
    if len(models) > 1:
        notes.append(f"the runs have different models: {', '.join(models)}; each entry is relative to the run's base")
    notes += warnings(entry for row in rows for entry in row["entries"].values())
    return "\n".join([f"tuned - base on {table['set']} prompts", *aligned(lines), *(f"({note})" for note in notes)])


def _title(evaluation: dict[str, Any]) -> str:
    parts = [evaluation["model"]]
    if evaluation["trained_on"] is not None:
        parts += [f"{evaluation['checkpoint']} trained on {evaluation['trained_on']}"]
    parts += [f"{evaluation['steps']} steps", f"guidance {evaluation['guidance']:g}"]
    return f"{evaluation['source']}: {', '.join(parts)}"


def _set_table(prompt_set: dict[str, Any]) -> str:
    source = f" of {prompt_set['source']}" if prompt_set["source"] != prompt_set["name"] else ""
    prompts, images = _plural(prompt_set["prompts"], "prompt"), _plural(prompt_set["images"], "image")
    title = f"{prompt_set['name']}: {prompts}{source}, {images}"
    table = _figure_table(title, {**_scored(prompt_set), **_set_statistics(prompt_set)})
    return "\n".join([table, *(f"({line})" for line in baseline_lines(prompt_set))])


def _tag_tables(prompt_set: dict[str, Any]) -> Iterator[str]:
    """A table for each reward, with a line for each tag of the prompts; none without tags."""
    tags = {f"{tag} ({_plural(part['images'], 'image')})": _scored(part) for tag, part in prompt_set["by_tag"].items()}
    for name in _scored(prompt_set) if tags else ():
        figures = {label: scored[name] for label, scored in tags.items()}
        yield _figure_table(f"{prompt_set['name']}: {name} by tag", figures)


def _scored(part: dict[str, Any]) -> dict[str, Any]:
    """The figures of the scores of a prompt set or of one tag of it, by their label in tables."""
    return {**part["rewards"], **{f"{name}, pass rate": figure for name, figure in part["pass_rates"].items()}}


def _set_statistics(prompt_set: dict[str, Any]) -> dict[str, Any]:
    """The figures of the set statistics, by their label in tables."""
    return {
        statistic.label: {side: _estimate(value) for side, value in prompt_set[name].items()}
        for name, statistic in set_statistics().items()
        if name in prompt_set
    }


def _estimate(value: Mapping[str, Any] | float) -> Mapping[str, Any]:
    """A number as an Estimate without uncertainty."""
    if isinstance(value, Mapping):
        return value
    return {"mean": value, "standard_error": None, "interval": None, "warning": ""}


def baseline_lines(prompt_set: Mapping[str, Any]) -> list[str]:
    """A line for each baseline of a set statistic."""
    return [
        f"{statistic.label}: {prompt_set[key]:.4g} for {words}"
        for statistic in set_statistics().values()
        for key, words in statistic.baselines.items()
        if key in prompt_set
    ]


def _figure_table(title: str, figures: Mapping[str, Any]) -> str:
    """A line for each figure and a column for each side, with the warnings below."""
    sides = list(next(iter(figures.values())))
    lines = [["", *(_HEADINGS[side] for side in sides)]]
    for name, figure in figures.items():
        lines.append([name, *(estimate_text(figure[side], signed=side == DIFFERENCE) for side in sides)])
    below = [f"({warning})" for warning in warnings(figure[side] for figure in figures.values() for side in sides)]
    return "\n".join([title, *aligned(lines), *below])


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def estimate_text(estimate: Mapping[str, Any], signed: bool) -> str:
    """`mean ± standard error [low, high]`, as far as they are known, to two digits of the standard error."""
    mean, error, sign = estimate["mean"], estimate["standard_error"], "+" if signed else ""
    if mean is None:
        return "-"
    if not error:
        return f"{mean:{sign}.4g}" + (" ± 0" if error == 0 else "")
    digits = min(max(1 - math.floor(math.log10(error)), 0), _MAX_DIGITS)
    number = f"{sign}.{digits}f"
    low, high = estimate["interval"]
    return f"{mean:{number}} ± {error:.{digits}f} [{low:{number}}, {high:{number}}]"


def aligned(lines: Sequence[Sequence[str]]) -> Iterator[str]:
    """The rows of a table as lines with aligned columns."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        yield "  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip()


def warnings(estimates: Iterable[Mapping[str, Any]]) -> list[str]:
    """The warnings that belong to estimates, each once."""
    return [warning for warning in dict.fromkeys(estimate["warning"] for estimate in estimates) if warning]
