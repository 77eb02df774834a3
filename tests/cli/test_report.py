"""`stepcredit report`: the page of a run or of a comparison, and errors."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from tests.cli.command_line import TOY, refused, stepcredit, tree
from tests.comparison.finished import finished_comparison
from tests.toy_policy import ToyPolicy


def test_the_page_of_a_run_is_the_one_that_training_wrote(here: Path, toy: list[ToyPolicy]) -> None:
    assert stepcredit("train", *TOY, "--run", "a").code == 0
    written = (here / "a" / "report.html").read_bytes()
    (here / "a" / "report.html").unlink()
    said = stepcredit("report", "a")
    assert (said.code, said.out, said.err) == (0, "a/report.html\n", "")
    assert (here / "a" / "report.html").read_bytes() == written


def test_the_page_of_a_comparison_is_written_to_out(here: Path) -> None:
    finished_comparison(here / "a", {"uniform": {11: [0, 1]}, "linear": {11: [0, 2]}})
    before = tree(here / "a")
    said = stepcredit("report", "a", "--out", "pages/mine.html")
    assert (said.code, said.out) == (0, "pages/mine.html\n")
    assert "<h1>a</h1>" in (here / "pages" / "mine.html").read_text()
    assert tree(here / "a") == before


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["none"], "none is not a folder"),
        (["file"], "file is not a folder"),
        (["folder"], "folder is neither a run (no config.yaml) nor a comparison"),
        (["run"], "unknown key 'x' in run/config.yaml"),
        (["begun"], "the comparison in begun is not finished"),
        (["kept", "--out", "folder"], "cannot write to folder: it is a folder; choose another --out"),
        (["kept", "--out", "file/page.html"], "cannot write to file/page.html: "),
        ([], "Missing argument 'RUN|DIR'."),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_is_a_one_line_error(here: Path, arguments: list[str], line: str) -> None:
    (here / "file").write_text("x")
    (here / "folder").mkdir()
    (here / "run").mkdir()
    (here / "run" / "config.yaml").write_text("x: 3\n")
    arms = {"uniform": {11: [0, 1]}, "linear": {11: [0, 2]}}
    finished_comparison(here / "begun", arms).results_path.unlink()
    finished_comparison(here / "kept", arms)
    assert refused("report", *arguments).startswith(line)


def test_an_unreadable_file_is_named(here: Path, toy: list[ToyPolicy]) -> None:
    assert stepcredit("train", *TOY, "--run", "a").code == 0
    (here / "a" / "metrics.jsonl").unlink()
    (here / "a" / "metrics.jsonl").mkdir()
    assert refused("report", "a") == "cannot read a/metrics.jsonl: Is a directory"
    assert refused("report", "a", "--out", "metrics") == "cannot read a/metrics.jsonl: Is a directory"


def test_an_error_without_a_file_name_names_page_and_run(
    here: Path, toy: list[ToyPolicy], monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    assert stepcredit("train", *TOY, "--run", "a").code == 0
    monkeypatch.setattr("stepcredit.report.write_report", failing)
    assert refused("report", "a") == "cannot write a/report.html from a: Input/output error"
