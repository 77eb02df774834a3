"""Findings as tables that a person reads."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from stepcredit.evaluation.results import BASE, DIFFERENCE, TUNED

_HEADINGS = {BASE: "base", TUNED: "tuned", DIFFERENCE: "tuned - base"}
_MOST_DIGITS = 8


def evaluation_text(evaluation: dict[str, Any]) -> str:
    """The tables of one model or run, one per prompt set."""
    return "\n\n".join([_heading(evaluation), *(_set_text(found) for found in evaluation["sets"])])


def cross_text(table: dict[str, Any]) -> str:
    """Rows: the reward trained on. Columns: the reward measured. Entries: tuned minus base."""
    rows, rewards = table["rows"], table["rewards"]
    lines = [["trained on", "run", "model", *rewards]]
    for row in rows:
        entries = [estimate_text(row["entries"][reward], signed=True) for reward in rewards]
        lines.append([row["trained_on"], row["run"], row["model"], *entries])
    sources = list(dict.fromkeys(row["prompts"] for row in rows))
    notes = [f"prompts differ by run: {', '.join(sources)}"] if len(sources) > 1 else []
    models = list(dict.fromkeys(row["model"] for row in rows))
    notes += (
        [f"models differ by run: {', '.join(models)}; each entry is against its own base"] if len(models) > 1 else []
    )
    notes += remarks(entry for row in rows for entry in row["entries"].values())
    return "\n".join([f"tuned - base on {table['set']} prompts", *aligned(lines), *notes])


def _heading(evaluation: dict[str, Any]) -> str:
    parts = [evaluation["model"]]
    if evaluation["trained_on"] is not None:
        parts += [f"{evaluation['checkpoint']} trained on {evaluation['trained_on']}"]
    parts += [f"{evaluation['steps']} steps", f"guidance {evaluation['guidance']:g}"]
    return f"{evaluation['source']}: {', '.join(parts)}"


def _set_text(found: dict[str, Any]) -> str:
    figures = {**found["rewards"], "diversity": found["diversity"]}
    sides = list(next(iter(figures.values())))
    lines = [["", *(_HEADINGS[side] for side in sides)]]
    for name, figure in figures.items():
        lines.append([name, *(estimate_text(figure[side], signed=side == DIFFERENCE) for side in sides)])
    source = f" of {found['source']}" if found["source"] != found["name"] else ""
    title = f"{found['name']}: {_counted(found['prompts'], 'prompt')}{source}, {_counted(found['images'], 'image')}"
    notes = remarks(figure[side] for figure in figures.values() for side in sides)
    return "\n".join([title, *aligned(lines), *notes])


def _counted(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def estimate_text(estimate: Mapping[str, Any], signed: bool) -> str:
    """`mean ± standard error [low, high]`, as far as there are any, to two digits of the standard error."""
    mean, error, sign = estimate["mean"], estimate["standard_error"], "+" if signed else ""
    if mean is None:
        return "-"
    if not error:
        return f"{mean:{sign}.4g}" + (" ± 0" if error == 0 else "")
    digits = min(max(1 - math.floor(math.log10(error)), 0), _MOST_DIGITS)
    number = f"{sign}.{digits}f"
    low, high = estimate["interval"]
    return f"{mean:{number}} ± {error:.{digits}f} [{low:{number}}, {high:{number}}]"


def aligned(lines: Sequence[Sequence[str]]) -> Iterator[str]:
    """Rows of a table as lines, their columns one under the other."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        yield "  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip()


def remarks(estimates: Iterable[Mapping[str, Any]]) -> list[str]:
    """What estimates say against themselves, each once, in brackets."""
    return [f"({remark})" for remark in dict.fromkeys(estimate["remark"] for estimate in estimates) if remark]
