"""`stepcredit report`: a page of a run or of a comparison, and one line for everything else."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from tests.cli.command_line import TOY, refused, stepcredit, tree
from tests.comparison.finished import kept
from tests.toy_policy import ToyPolicy


def test_a_run_gets_the_page_that_training_wrote(here: Path, toy: list[ToyPolicy]) -> None:
    assert stepcredit("train", *TOY, "--run", "a").code == 0
    written = (here / "a" / "report.html").read_bytes()
    (here / "a" / "report.html").unlink()
    said = stepcredit("report", "a")
    assert (said.code, said.out, said.err) == (0, "a/report.html\n", "")
    assert (here / "a" / "report.html").read_bytes() == written


def test_a_comparison_gets_a_page_where_it_is_asked_for(here: Path) -> None:
    kept(here / "a", {"uniform": {11: [0, 1]}, "linear": {11: [0, 2]}})
    before = tree(here / "a")
    said = stepcredit("report", "a", "--out", "pages/mine.html")
    assert (said.code, said.out) == (0, "pages/mine.html\n")
    assert "<h1>a</h1>" in (here / "pages" / "mine.html").read_text()
    assert tree(here / "a") == before


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["none"], "none is no folder of a run or a comparison"),
        (["file"], "file is no folder of a run or a comparison"),
        (["folder"], "folder is neither a run (no config.yaml) nor a comparison (no protocol.yaml)"),
        (["run"], "unknown key 'x' in run/config.yaml"),
        (["begun"], "the comparison in begun is not finished (no results.json): "),
        (["kept", "--out", "folder"], "cannot write to folder: it is a folder; choose another --out"),
        (["kept", "--out", "file/page.html"], "cannot write to file/page.html: "),
        ([], "Missing argument 'RUN|DIR'."),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_one_line_and_leaves_nothing(here: Path, arguments: list[str], line: str) -> None:
    (here / "file").write_text("x")
    (here / "folder").mkdir()
    (here / "run").mkdir()
    (here / "run" / "config.yaml").write_text("x: 3\n")
    arms = {"uniform": {11: [0, 1]}, "linear": {11: [0, 2]}}
    kept(here / "begun", arms).results_path.unlink()
    kept(here / "kept", arms)
    assert refused("report", *arguments).startswith(line)


def test_what_cannot_be_read_is_not_blamed_on_the_page(here: Path, toy: list[ToyPolicy]) -> None:
    assert stepcredit("train", *TOY, "--run", "a").code == 0
    (here / "a" / "metrics.jsonl").unlink()
    (here / "a" / "metrics.jsonl").mkdir()
    assert refused("report", "a") == "cannot read a/metrics.jsonl: Is a directory"
    assert refused("report", "a", "--out", "metrics") == "cannot read a/metrics.jsonl: Is a directory"


def test_a_failure_that_names_no_file_names_both(
    here: Path, toy: list[ToyPolicy], monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    assert stepcredit("train", *TOY, "--run", "a").code == 0
    monkeypatch.setattr("stepcredit.report.write_report", failing)
    assert refused("report", "a") == "cannot make a/report.html of a: Input/output error"
