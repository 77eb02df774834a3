"""Run the fault and hostile-input tests, and write the counts of their cases to docs/results/reliability.md.

    uv run python benchmarks/faults.py          # all tests, as in the docs (many minutes)
    uv run python benchmarks/faults.py --fast   # only the tests that are not marked slow

If a test fails, nothing is written.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import torch

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "results" / "reliability.md"
TABLES = {"faults": ["tests/faults"], "hostile": ["tests/hostile"]}
VARIABLE = "STEPCREDIT_FAULT_ROWS"


def run_tests(tests: list[str], fast: bool) -> list[dict[str, str | int]]:
    """Run the tests and return the cases that they counted."""
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder) / "rows.jsonl"
        marks = "not slow" if fast else "slow or not slow"
        command = [sys.executable, "-m", "pytest", "-q", "-m", marks, *tests]
        subprocess.run(command, check=True, cwd=ROOT, env={**os.environ, VARIABLE: str(rows), "OMP_NUM_THREADS": "1"})
        return [json.loads(line) for line in rows.read_text(encoding="utf-8").splitlines()]


def table(rows: Iterable[dict[str, str | int]]) -> str:
    """A Markdown table with one row for each pair of target and fault."""
    outcomes: dict[tuple[str, str], Counter[str]] = {}
    losses: dict[tuple[str, str], Counter[str]] = {}
    for row in rows:
        key, times = (str(row["what"]), str(row["how"])), int(row["times"])
        outcomes.setdefault(key, Counter())[str(row["outcome"])] += times
        losses.setdefault(key, Counter())[str(row["lost"])] += times
    total = sum(sum(counted.values()) for counted in outcomes.values())
    lines = ["| what | how | times | outcome | lost work |", "|---|---|---|---|---|"]
    for key in sorted(outcomes):
        cells = [*key, f"{sum(outcomes[key].values()):,}", _counts(outcomes[key]), _counts(losses[key])]
        lines.append(f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |")
    return "\n".join([*lines, "", f"{total:,} in all."])


def _counts(counted: Counter[str]) -> str:
    if len(counted) == 1:
        return next(iter(counted))
    return "; ".join(f"{what}: {times:,}" for what, times in counted.most_common())


def put(page: str, name: str, text: str) -> str:
    """The page with the text between the marks of `name` replaced by `text`."""
    marks = f"<!-- {name} -->", f"<!-- end of {name} -->"
    pattern = re.compile(f"{re.escape(marks[0])}.*?{re.escape(marks[1])}", re.DOTALL)
    if not pattern.search(page):
        raise SystemExit(f"{PAGE} has no marks {marks}")
    return pattern.sub(lambda _: f"{marks[0]}\n{text}\n{marks[1]}", page)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fast", action="store_true", help="skip tests marked slow")
    parser.add_argument("--only", choices=TABLES, help="update only this table")
    options = parser.parse_args()
    names = [options.only] if options.only else list(TABLES)
    tables = {name: table(run_tests(TABLES[name], options.fast)) for name in names}
    setting = f"Python {platform.python_version()}, torch {torch.__version__}, {platform.system()}, float32 on the CPU"
    page = PAGE.read_text(encoding="utf-8")
    for name, text in tables.items():
        note = f"{'Fast part. ' if options.fast else ''}{setting}."
        page = put(page, name, f"{note}\n\n{text}")
    PAGE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
