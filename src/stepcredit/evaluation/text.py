"""Findings as tables that a person reads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from stepcredit.evaluation.findings import BASE, DIFFERENCE, TUNED

_HEADINGS = {BASE: "base", TUNED: "tuned", DIFFERENCE: "tuned - base"}


def evaluation_text(evaluation: dict[str, Any]) -> str:
    """The tables of one model or run, one per prompt set."""
    return "\n\n".join([_heading(evaluation), *(_set_text(found) for found in evaluation["sets"])])


def cross_text(table: dict[str, Any]) -> str:
    """Rows: the reward trained on. Columns: the reward measured. Entries: tuned minus base."""
    rows, rewards = table["rows"], table["rewards"]
    lines = [["trained on", "run", "model", *rewards]]
    for row in rows:
        entries = [_estimate(row["entries"][reward], signed=True) for reward in rewards]
        lines.append([row["trained_on"], row["run"], row["model"], *entries])
    sources = list(dict.fromkeys(row["prompts"] for row in rows))
    notes = [f"prompts differ by run: {', '.join(sources)}"] if len(sources) > 1 else []
    models = list(dict.fromkeys(row["model"] for row in rows))
    notes += [f"models differ by run: {', '.join(models)}; each entry is against its own base"] if len(models) > 1 else []
    remarks = _remarks(entry for row in rows for entry in row["entries"].values())
    return "\n".join([f"tuned - base on {table['set']} prompts", *_aligned(lines), *notes, *remarks])


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
        lines.append([name, *(_estimate(figure[side], signed=side == DIFFERENCE) for side in sides)])
    source = f" of {found['source']}" if found["source"] != found["name"] else ""
    title = f"{found['name']}: {found['prompts']} prompts{source}, {found['images']} images"
    remarks = _remarks(figure[side] for figure in figures.values() for side in sides)
    return "\n".join([title, *_aligned(lines), *remarks])


def _estimate(estimate: dict[str, Any], signed: bool) -> str:
    """`mean ± standard error [low, high]`, as far as there are any."""
    if estimate["mean"] is None:
        return "-"
    sign = "+" if signed else ""
    text = f"{estimate['mean']:{sign}.4g}"
    if estimate["standard_error"] is not None:
        low, high = estimate["interval"]
        text += f" ± {estimate['standard_error']:.2g} [{low:{sign}.4g}, {high:{sign}.4g}]"
    return text


def _aligned(lines: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        yield "  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip()


def _remarks(estimates: Iterator[dict[str, Any]]) -> list[str]:
    return [f"({remark})" for remark in dict.fromkeys(estimate["remark"] for estimate in estimates) if remark]
