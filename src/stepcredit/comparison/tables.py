"""Findings as tables that a person reads, on a terminal or as Markdown."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping
from typing import Any

from stepcredit.evaluation.tables import aligned, estimate_text, remarks

Table = list[list[str]]
WIDTH = 110


def printed(results: Mapping[str, Any]) -> str:
    """The tables of `results.json` for a terminal."""
    blocks = []
    for reward, found in results["rewards"].items():
        told = "\n".join([title(results, reward, found), *caveats(results, found)])
        blocks.append("\n\n".join([told, *("\n".join(aligned(table)) for table in tables(results, found))]))
    return "\n\n".join([*blocks, "\n".join(textwrap.fill(note, WIDTH) for note in notes(results))])


def markdown(results: Mapping[str, Any], command: str) -> str:
    """The same as a page, with the command that made it."""
    parts = ["# Comparison", f"`{command}`", *reward_sections(results)]
    explained = "\n".join(f"- {note}" for note in notes(results))
    return "\n\n".join([*parts, "## How to read it", explained]) + "\n"


def reward_sections(results: Mapping[str, Any]) -> list[str]:
    """Paragraphs and tables of every reward, under a heading each."""
    parts = []
    for reward, found in results["rewards"].items():
        told = [title(results, reward, found) + ".", *(f"{line}." for line in caveats(results, found))]
        parts += [f"## {reward}", "\n".join(told), *(pipes(table) for table in tables(results, found))]
    return parts


def title(results: Mapping[str, Any], reward: str, found: Mapping[str, Any]) -> str:
    seeds = max(len(arm["by_seed"]) for arm in found["arms"].values())
    return (
        f"{reward}: {seeds} fresh seed{'s' if seeds > 1 else ''}, mean reward of the last {results['last_epochs']} "
        f"epochs, reference {results['reference']}"
    )


def tables(results: Mapping[str, Any], found: Mapping[str, Any]) -> list[Table]:
    """Of one reward: efficiency, factors and queries by seed, faithfulness, and every pair of three arms or more."""
    arms = found["arms"]
    made = [_efficiency(results["reference"], arms), _factors(arms), _queries(results["reference"], arms)]
    watched = list(dict.fromkeys(name for arm in found["arms"].values() for name in arm["watched"]))
    made += [_faithfulness(name, results["reference"], found["arms"]) for name in watched]
    if len(found["arms"]) <= 2:
        return made
    # Whoever was named the reference, another arm may be the better yardstick.
    factor = "queries factor of row, were column the reference; seeds above 1"
    differences = _pairs("final reward, row - column", found["differences"], _bounds)
    return [*made, differences, _pairs(factor, found["factors"], _counted)]


def _efficiency(reference: str, arms: Mapping[str, Any]) -> Table:
    seconds = "s/epoch (of it credit)"
    lines = [["arm", "learning rate", "final reward", f"- {reference}", "queries factor", "> 1", "never", seconds]]
    for name, arm in arms.items():
        factor, other = arm["factor"], name != reference
        lines.append(
            [
                name,
                _rate(arm),
                estimate_text(arm["final"], signed=False),
                estimate_text(arm["difference"], signed=True) if other else "reference",
                _median(factor) if other else "1",
                f"{factor['above_one']} of {factor['of']}" if other else "",
                str(factor["never"]) if other else "",
                f"{_plain_mean(arm['seconds_per_epoch'])} ({_plain_mean(arm['seconds_credit'])})",
            ]
        )
    return lines


def _factors(arms: Mapping[str, Any]) -> Table:
    """Per seed: the spread that a median hides."""
    seeds = _seeds(arms)
    lines = [["queries factor by seed", *map(str, seeds), "factor in seconds"]]
    for name, arm in arms.items():
        factors = {row["seed"]: row["factor"] for row in arm["by_seed"]}
        lines.append([name, *(_one(factors.get(seed)) for seed in seeds), _median(arm["seconds_factor"])])
    return lines


def _queries(reference: str, arms: Mapping[str, Any]) -> Table:
    """Per seed, to the final reward of the reference."""
    seeds = _seeds(arms)
    lines = [[f"queries to the final reward of {reference}", *map(str, seeds)]]
    for name, arm in arms.items():
        rows = {row["seed"]: row for row in arm["by_seed"]}
        lines.append([name, *(_needed(rows[seed]) if seed in rows else "-" for seed in seeds)])
    return lines


def _seeds(arms: Mapping[str, Any]) -> list[int]:
    return list(dict.fromkeys(row["seed"] for arm in arms.values() for row in arm["by_seed"]))


def _needed(row: Mapping[str, Any]) -> str:
    if row["queries_to_reference"] is None:
        return "-" if row["factor"] is None else "never"
    return f"{row['queries_to_reference']:.0f}"


def _faithfulness(watched: str, reference: str, arms: Mapping[str, Any]) -> Table:
    lines = [[f"{watched} at matched reward", "there", f"- {reference}", "at the end", "seeds left out"]]
    for name, arm in arms.items():
        found = arm["watched"].get(watched)
        if found is not None:
            difference = estimate_text(found["difference"], signed=True) if name != reference else "reference"
            there, end = (estimate_text(found[key], signed=False) for key in ("at_reference", "final"))
            lines.append([name, there, difference, end, str(found["left_out"])])
    return lines


def _pairs(
    what: str, found: Mapping[str, Mapping[str, Mapping[str, Any]]], told: Callable[[Mapping[str, Any]], str]
) -> Table:
    """Of every arm with every other."""
    lines = [[what, *found]]
    for arm, others in found.items():
        lines.append([arm, *(told(others[other]) if other != arm else "" for other in found)])
    return lines


def _counted(factor: Mapping[str, Any]) -> str:
    return "-" if factor["median"] is None else f"{_median(factor)}; {factor['above_one']} of {factor['of']}"


def _plain_mean(estimate: Mapping[str, Any]) -> str:
    return "-" if estimate["mean"] is None else f"{estimate['mean']:.2g}"


def _rate(arm: Mapping[str, Any]) -> str:
    rate = arm["tuning"]["learning_rate"]
    return "-" if rate is None else f"{rate:g}" + ("" if arm["tuning"]["grid"] else " (given)")


def _median(figure: Mapping[str, Any]) -> str:
    if figure["median"] is None:
        return "-"
    if figure["interval"] is None:
        return _one(figure["median"])
    low, high = figure["interval"]
    return f"{_one(figure['median'])} [{_one(low)}, {_one(high)}]"


def _one(factor: float | None) -> str:
    return "-" if factor is None else "never" if factor == 0 else f"{factor:.2f}"


def _bounds(estimate: Mapping[str, Any]) -> str:
    """Without the standard error, which many columns have no room for."""
    if estimate["mean"] is None:
        return "-"
    if estimate["interval"] is None:
        return f"{estimate['mean']:+.3g}"
    return f"{estimate['mean']:+.3g} [{estimate['interval'][0]:+.3g}, {estimate['interval'][1]:+.3g}]"


def caveats(results: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """Every reason not to believe the tables, in brackets."""
    arms = found["arms"]
    said = remarks(figure for arm in arms.values() for figure in (arm["final"], arm["difference"]))
    medians = remarks(arm["factor"] for arm in arms.values())
    rates = [f"({name}: {arm['tuning']['remark']})" for name, arm in arms.items() if arm["tuning"]["remark"]]
    rates += [line for name in arms for line in _unlike(name, results["reference"], arms)]
    rates += _no_yardstick(arms[results["reference"]])
    if not any(arm["tuning"]["grid"] for arm in arms.values()):
        rates.append("(no learning rate was tuned: an arm may be ahead by its rate alone)")
    if found["detectable"]:
        rates.append(f"(so many seeds show differences of final reward from about {found['detectable']:.2g} on)")
    failed = [f"(left out, it failed: {line})" for line in results["failed"]]
    return list(dict.fromkeys([*said, *(f"(factors: {line[1:]}" for line in medians), *rates, *failed]))


def _unlike(name: str, reference: str, arms: Mapping[str, Any]) -> list[str]:
    """Of an arm that is more than another credit rule at another rate."""
    own, other = (arms[arm]["overrides"] for arm in (name, reference))
    keys = [key for key in {**own, **other} if key not in own or key not in other or own[key] != other[key]]
    keys = [key for key in keys if not key.startswith("credit.") and key != "train.learning_rate"]
    return [f"({name} differs from {reference} by {', '.join(keys)}, not by credit and rate alone)"] if keys else []


def _no_yardstick(reference: Mapping[str, Any]) -> list[str]:
    """Of a reference that ends where it began; every arm that begins there too has factor 1."""
    rows = reference["by_seed"]
    at_once = [str(row["seed"]) for row in rows if row["queries_to_reference"] == row["queries"][0]]
    if not at_once:
        return []
    return [f"(the reference ends no higher than it began on seed {', '.join(at_once)}: factors say little there)"]


def notes(results: Mapping[str, Any]) -> list[str]:
    """What the figures mean."""
    method = results["method"]
    return [
        f"mean ± standard error [interval], median [interval]: {method['uncertainty']}",
        f"reward: {method['rewards']}",
        f"shown by so many seeds: {method['detectable']}",
        f"queries to the reference: {method['queries_to_reference']}",
        f"factor: {method['factor']}",
        f"at matched reward: {method['watched_at_reference']}",
        f"seconds: {method['seconds']}; {results['jobs']} at a time",
    ]


def pipes(table: Table) -> str:
    """As Markdown; the first row is the head."""
    cells = [[cell.replace("|", "\\|") for cell in line] for line in table]
    head, *rest = [f"| {' | '.join(line)} |" for line in cells]
    return "\n".join([head, f"|{'---|' * len(cells[0])}", *rest])
