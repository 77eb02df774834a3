"""docs/results/reliability.md tells of every fault, and its tables add up what the tests have counted."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
from tests.faults.test_faults import FAULTS
from tests.faults.test_kills import DOING
from tests.faults.test_several_processes import TOLD
from tests.faults.victim import SIGNALS

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "results" / "reliability.md").read_text(encoding="utf-8")
GENERATOR = runpy.run_path(str(ROOT / "benchmarks" / "faults.py"))


def test_every_fault_and_every_kill_is_on_the_page() -> None:
    expected = [f"| {fault.what} | {fault.how} | " for fault in FAULTS]
    expected += [f"| {name} while {doing} | " for name in SIGNALS for doing in DOING.values()]
    expected += [f"| {fault.what}, of one of two processes | " for fault in TOLD]
    expected += ["| SIGKILL of one of two processes | ", "| SIGKILL of a worker of two | "]
    assert [line for line in expected if line not in PAGE] == [], "run: python benchmarks/faults.py"


def test_equal_faults_are_added_up() -> None:
    row = {"what": "b", "how": "x|y", "outcome": "stops", "lost": "nothing", "times": 1200}
    rows = [row, row | {"times": 1}, row | {"outcome": "works"}, row | {"what": "a"}]
    assert GENERATOR["table"](rows).splitlines()[2:] == [
        "| a | x/y | 1,200 | stops | nothing |",
        "| b | x/y | 2,401 | stops: 1,201; works: 1,200 | nothing |",
        "",
        "3,601 in all.",
    ]


def test_a_table_takes_the_place_of_the_one_before() -> None:
    page = "a\n<!-- x -->\nold\n<!-- end of x -->\nb\n"
    once = GENERATOR["put"](page, "x", r"new \1")
    assert once == "a\n<!-- x -->\nnew \\1\n<!-- end of x -->\nb\n"
    assert GENERATOR["put"](once, "x", "old") == page
    with pytest.raises(SystemExit, match="has no marks"):
        GENERATOR["put"](page, "y", "")


@pytest.mark.parametrize(("name", "least"), [("faults", 200), ("hostile", 10_000)])
def test_the_page_counts_what_its_rows_count_and_no_outcome_is_a_traceback(name: str, least: int) -> None:
    table = PAGE.split(f"<!-- {name} -->")[1].split(f"<!-- end of {name} -->")[0]
    rows = [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("| ")][1:]
    counted = sum(int(row[2].replace(",", "")) for row in rows)
    assert table.rstrip().endswith(f"{counted:,} in all.") and counted >= least
    told = [row for row in rows if "a traceback" in row[3] and "error that is a bug" not in row[0]]
    assert told == [], "what is no bug of ours ends in a line"
