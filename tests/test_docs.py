"""Generated pages are up to date, and the README's commands are the ones CI runs."""

import re
import runpy
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md"]
UNESCAPED = r"(?<!\\)\|"


def test_configuration_page_is_generated_from_the_schema() -> None:
    page = runpy.run_path(str(ROOT / "docs" / "generate.py"))["configuration"]()
    assert (ROOT / "docs" / "configuration.md").read_text() == page, "run: python docs/generate.py"


def test_every_key_of_the_configuration_says_what_it_means() -> None:
    rows = [line for line in (ROOT / "docs" / "configuration.md").read_text().splitlines() if line.startswith("| `")]
    assert len(rows) > 30
    assert not [row for row in rows if row.rstrip("| ").endswith("|") or row.split("|")[-2].strip() == ""]


@pytest.mark.parametrize(
    "page", [*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md"], ids=lambda page: page.stem
)
def test_rows_of_a_table_have_as_many_cells(page: Path) -> None:
    lines = page.read_text().splitlines()
    for above, below in pairwise(lines):
        if above.startswith("|") and below.startswith("|"):
            assert len(re.findall(UNESCAPED, above)) == len(re.findall(UNESCAPED, below)), below


def test_ci_runs_the_test_command_of_the_readme() -> None:
    readme = (ROOT / "README.md").read_text().splitlines()
    commands = [line for line in readme if line.startswith("pip install uv && uv run")]
    assert [("pytest" in line, "stepcredit train" in line) for line in commands] == [(False, True), (True, False)]
    assert "README.md" in (ROOT / ".ci" / "run").read_text()


def test_a_job_that_is_started_again_goes_on() -> None:
    page = (ROOT / "docs" / "processes.md").read_text()
    scripts = [block for block in page.split("\n\n") if "#!/bin/bash" in block or "restartPolicy: OnFailure" in block]
    assert len(scripts) == 2
    for script in scripts:
        assert "resume=$([ -d /shared/runs/sdxl/checkpoints ] && echo --resume)" in script and "$resume" in script
