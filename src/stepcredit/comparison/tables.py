"""Results of a comparison as tables, for a terminal or as Markdown."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping
from typing import Any

from stepcredit.comparison.evaluation_tables import evaluation_estimates, evaluation_notes, evaluation_table
from stepcredit.evaluation.tables import aligned, estimate_text, warnings
from stepcredit.runs.versions import versions_text

Table = list[list[str]]
"""Rows of cells. The first row holds the headings."""
WIDTH = 110
_TUNED = ("train.learning_rate", "train.clip_range")


def text(results: Mapping[str, Any]) -> str:
    """The tables of `results.json` for a terminal."""
    blocks = []
    for reward, result in results["rewards"].items():
        head = [title(results, reward, result), *(f"({line})" for line in caveats(results, result))]
        blocks.append("\n\n".join(["\n".join(head), *("\n".join(aligned(table)) for table in tables(results, result))]))
    return "\n\n".join([*blocks, "\n".join(textwrap.fill(note, WIDTH) for note in notes(results))])


def markdown(results: Mapping[str, Any], command: str) -> str:
    """The tables as a Markdown page, with the command that made them."""
    parts = ["# Comparison", f"`{command}`", *reward_sections(results)]
    explained = "\n".join(f"- {note}" for note in notes(results))
    return "\n\n".join([*parts, "## How to read it", explained]) + "\n"


def reward_sections(results: Mapping[str, Any]) -> list[str]:
    """Headings, caveats and tables of every reward, as Markdown."""
    parts = []
    for reward, result in results["rewards"].items():
        head = [f"{title(results, reward, result)}.", *(f"({line}.)" for line in caveats(results, result))]
        parts += [f"## {reward}", "\n".join(head), *(pipes(table) for table in tables(results, result))]
    return parts


def title(results: Mapping[str, Any], reward: str, result: Mapping[str, Any]) -> str:
    seeds = max(len(arm["by_seed"]) for arm in result["arms"].values())
    return (
        f"{reward}: {seeds} fresh seed{'s' if seeds > 1 else ''}, mean reward of the last {last_epochs(results)}, "
        f"reference {results['reference']}"
    )


def last_epochs(results: Mapping[str, Any]) -> str:
    """The epochs of the criterion in words: `epoch` or `3 epochs`."""
    count = results["last_epochs"]
    return "epoch" if count == 1 else f"{count} epochs"


def tables(results: Mapping[str, Any], result: Mapping[str, Any]) -> list[Table]:
    """The tables of one reward: summary, factors and queries by seed, watched rewards, evaluations, pairs of arms."""
    arms, reference = result["arms"], results["reference"]
    watched = list(dict.fromkeys(name for arm in arms.values() for name in arm["watched"]))
    first = [_summary(reference, arms), _factors(arms), _queries(reference, arms)]
    first += [_watched(name, reference, arms) for name in watched]
    first += [evaluation_table(reference, one) for one in result.get("evaluation", [])]
    if len(arms) <= 2:
        return first
    # With three arms or more, the reader may want another reference than the one that was chosen.
    differences = _pairs("final reward, row - column", result["differences"], _interval)
    return [*first, differences, _pairs("query speed-up of row over column; seeds > 1", result["factors"], _counted)]


def _summary(reference: str, arms: Mapping[str, Any]) -> Table:
    seconds = "s/epoch (credit)"
    head = [
        "arm",
        "learning rate",
        "clip range",
        "final reward",
        f"- {reference}",
        "query speed-up",
        "seeds > 1",
        "never",
        seconds,
    ]
    lines = [head]
    for name, arm in arms.items():
        factor, compared = arm["factor"], name != reference
        lines.append(
            [
                name,
                _setting(arm, "learning_rate"),
                _setting(arm, "clip_range"),
                estimate_text(arm["final"], signed=False),
                estimate_text(arm["difference"], signed=True) if compared else "reference",
                _median(factor) if compared else "1",
                f"{factor['above_one']} of {factor['of']}" if compared else "",
                str(factor["never"]) if compared else "",
                f"{_rounded_mean(arm['seconds_per_epoch'])} ({_rounded_mean(arm['seconds_credit'])})",
            ]
        )
    return lines


def _factors(arms: Mapping[str, Any]) -> Table:
    """Factors by seed, which show the spread behind a median."""
    seeds = _seeds(arms)
    lines = [["query speed-up by seed", *map(str, seeds), "speed-up in seconds"]]
    for name, arm in arms.items():
        factors = {row["seed"]: row["factor"] for row in arm["by_seed"]}
        lines.append([name, *(_factor(factors.get(seed)) for seed in seeds), _median(arm["seconds_factor"])])
    return lines


def _queries(reference: str, arms: Mapping[str, Any]) -> Table:
    seeds = _seeds(arms)
    lines = [[f"queries to the final reward of {reference}", *map(str, seeds)]]
    for name, arm in arms.items():
        rows = {row["seed"]: row for row in arm["by_seed"]}
        lines.append([name, *(_queries_needed(rows[seed]) if seed in rows else "-" for seed in seeds)])
    return lines


def _seeds(arms: Mapping[str, Any]) -> list[int]:
    return list(dict.fromkeys(row["seed"] for arm in arms.values() for row in arm["by_seed"]))


def _queries_needed(row: Mapping[str, Any]) -> str:
    if row["queries_to_reference"] is None:
        return "-" if row["factor"] is None else "never"
    return f"{row['queries_to_reference']:.0f}"


def _watched(name: str, reference: str, arms: Mapping[str, Any]) -> Table:
    lines = [[f"{name} (watched)", "at matched reward", f"- {reference}", "at the end", "seeds left out"]]
    for arm_name, arm in arms.items():
        result = arm["watched"].get(name)
        if result is not None:
            difference = estimate_text(result["difference"], signed=True) if arm_name != reference else "reference"
            matched, end = (estimate_text(result[key], signed=False) for key in ("at_reference", "final"))
            lines.append([arm_name, matched, difference, end, str(result["left_out"])])
    return lines


def _pairs(
    heading: str,
    figures: Mapping[str, Mapping[str, Mapping[str, Any]]],
    cell: Callable[[Mapping[str, Any]], str],
) -> Table:
    """A table of every arm against every other."""
    lines = [[heading, *figures]]
    for arm, others in figures.items():
        lines.append([arm, *(cell(others[other]) if other != arm else "" for other in figures)])
    return lines


def _counted(factor: Mapping[str, Any]) -> str:
    return "-" if factor["median"] is None else f"{_median(factor)}; {factor['above_one']} of {factor['of']}"


def _rounded_mean(estimate: Mapping[str, Any]) -> str:
    return "-" if estimate["mean"] is None else f"{estimate['mean']:.2g}"


def _setting(arm: Mapping[str, Any], key: str) -> str:
    """The learning rate or the clip range of an arm; version 0.1 did not record the clip range."""
    value = arm["tuning"].get(key)
    return "-" if value is None else f"{value:g}" + ("" if _is_tuned(arm, key) else " (not tuned)")


def _is_tuned(arm: Mapping[str, Any], key: str) -> bool:
    """Whether the arm had several learning rates, or several clip ranges, to choose from."""
    return len({one.get(key) for one in arm["tuning"]["grid"]}) > 1


def _median(figure: Mapping[str, Any]) -> str:
    if figure["median"] is None:
        return "-"
    if figure["interval"] is None:
        return _factor(figure["median"])
    low, high = figure["interval"]
    return f"{_factor(figure['median'])} [{_factor(low)}, {_factor(high)}]"


def _factor(factor: float | None) -> str:
    return "-" if factor is None else "never" if factor == 0 else f"{factor:.2f}"


def _interval(estimate: Mapping[str, Any]) -> str:
    """Mean and interval, without the standard error: tables of pairs have many columns."""
    if estimate["mean"] is None:
        return "-"
    if estimate["interval"] is None:
        return f"{estimate['mean']:+.3g}"
    return f"{estimate['mean']:+.3g} [{estimate['interval'][0]:+.3g}, {estimate['interval'][1]:+.3g}]"


def caveats(results: Mapping[str, Any], result: Mapping[str, Any]) -> list[str]:
    """Every reason to doubt the tables of one reward."""
    arms, reference = result["arms"], results["reference"]
    lines = warnings(figure for arm in arms.values() for figure in (arm["final"], arm["difference"]))
    lines += warnings(evaluation_estimates(result))
    lines += [f"speed-up: {line}" for line in warnings(arm["factor"] for arm in arms.values())]
    lines += [f"{name}: {arm['tuning']['warning']}" for name, arm in arms.items() if arm["tuning"]["warning"]]
    lines += [line for name in arms for line in _other_settings(name, results, arms)]
    lines += _flat_reference(arms[reference])
    for key, name in (("learning_rate", "learning rate"), ("clip_range", "clip range")):
        if not any(_is_tuned(arm, key) for arm in arms.values()):
            lines.append(f"no {name} was tuned: an arm may lead only because its {name} suits it better")
    if result["detectable"]:
        lines.append(f"this number of seeds can detect differences of the final reward from {result['detectable']:.2g}")
    lines += [f"left out, because it failed: {line}" for line in results["failed"]]
    return list(dict.fromkeys(lines))


def _other_settings(name: str, results: Mapping[str, Any], arms: Mapping[str, Any]) -> list[str]:
    """A caveat if the arm differs from the reference by more than credit, learning rate and clip range."""
    reference, defaults = results["reference"], results.get("protocol", {}).get("model_defaults", {})
    own, other = ({**arms[arm]["overrides"], **defaults.get(arm, {})} for arm in (name, reference))
    keys = [key for key in {**own, **other} if key not in own or key not in other or own[key] != other[key]]
    keys = [key for key in keys if not key.startswith("credit.") and key not in _TUNED]
    return [f"{name} differs from {reference} by {', '.join(keys)}, not only by credit and tuning"] if keys else []


def _flat_reference(reference: Mapping[str, Any]) -> list[str]:
    """A caveat if the reference ends no higher than its first epoch, which every arm reaches at once."""
    rows = reference["by_seed"]
    if rows and all(len(row["queries"]) == 1 for row in rows):
        return [
            "the reference trained for one epoch, whose images are those of the untrained model: raise train.epochs"
        ]
    seeds = [str(row["seed"]) for row in rows if row["queries_to_reference"] == row["queries"][0]]
    if not seeds:
        return []
    return [f"on seed {', '.join(seeds)} the reference ends no higher than it began, so speed-ups mean little there"]


def notes(results: Mapping[str, Any]) -> list[str]:
    """What the figures in the tables mean."""
    method = results["method"]
    versions = results.get("versions")  # version 0.1 did not record them
    return [
        f"mean ± standard error [interval], median [interval]: {method['uncertainty']}",
        f"reward: {method['rewards']}",
        f"detectable difference: {method['detectable']}",
        f"queries to the final reward of the reference: {method['queries_to_reference']}",
        f"query speed-up: {method['factor']}",
        f"at matched reward: {method['watched_at_reference']}",
        *evaluation_notes(results),
        f"seconds: {method['seconds']}; {results['jobs']} at a time",
        *([f"versions: {versions_text(versions)}"] if versions else []),
    ]


def pipes(table: Table) -> str:
    """A table as Markdown."""
    cells = [[cell.replace("|", "\\|") for cell in line] for line in table]
    head, *rest = [f"| {' | '.join(line)} |" for line in cells]
    return "\n".join([head, f"|{'---|' * len(cells[0])}", *rest])
