"""The user's own code is imported once, and what goes wrong in it is one line with the place and the error."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest

from stepcredit import plugins
from stepcredit.errors import InputError
from stepcredit.plugins import load_attribute, load_entry_points, load_plugin


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder. Modules imported from it are forgotten afterwards."""
    before = set(sys.modules)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def complaint(name: str) -> str:
    with pytest.raises(InputError) as raised:
        load_plugin(name)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_a_file_runs_once(folder: Path) -> None:
    (folder / "mine.py").write_text("from pathlib import Path\nassert not Path('ran').exists()\nPath('ran').touch()\n")
    assert load_plugin("mine.py") is load_plugin(str(folder / "mine.py"))
    assert (folder / "ran").exists()


def test_files_with_the_same_name_are_different_plugins(folder: Path) -> None:
    for number in (1, 2):
        (folder / str(number)).mkdir()
        (folder / str(number) / "mine.py").write_text(f"NUMBER = {number}\n")
    assert [load_plugin(f"{number}/mine.py").NUMBER for number in (1, 2)] == [1, 2]


def test_a_file_leaves_the_import_path_alone(folder: Path) -> None:
    (folder / "mine.py").write_text("")
    before = list(sys.path)
    load_plugin("mine.py")
    assert sys.path == before and "mine" not in sys.modules


def test_a_module(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "my_module.py").write_text("NUMBER = 3\n")
    monkeypatch.syspath_prepend(folder)
    assert load_plugin("my_module").NUMBER == 3


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("\nimport no_such_module\n", 2, "No module named 'no_such_module'"),
        ("def score(\n", 1, "SyntaxError: '(' was never closed"),
        ("\n\nraise RuntimeError('not\\ntoday')\n", 3, "RuntimeError: not today"),
        ("import sys\nsys.exit(0)\n", 2, "SystemExit: 0"),
        ("def helper():\n    return 1 / 0\nhelper()\n", 2, "ZeroDivisionError"),
        ("import json\njson.loads('{')\n", 2, "JSONDecodeError"),
    ],
)
def test_a_file_that_cannot_be_imported(folder: Path, text: str, line: int, words: str) -> None:
    (folder / "mine.py").write_text(text)
    before = set(sys.modules)
    message = complaint("mine.py")
    assert words in message and "mine.py" in message and f"line {line})" in message
    assert not [name for name in set(sys.modules) - before if "mine" in name]


def test_a_module_that_cannot_be_imported(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "ends_the_program.py").write_text("raise SystemExit('usage: mine')\n")
    monkeypatch.syspath_prepend(folder)
    assert "usage: mine" in complaint("ends_the_program")
    assert "path/file.py" in complaint("no_such_module")


@pytest.mark.parametrize("name", ["", "..mine", "folder/mine"])
def test_a_name_that_no_module_can_have(name: str) -> None:
    assert f"'{name}'" in complaint(name)


def test_a_missing_file(folder: Path) -> None:
    assert "none.py" in complaint("none.py")


def test_an_attribute(folder: Path) -> None:
    (folder / "mine.py").write_text("NUMBER = 1.0\ndef score(): ...\n")
    assert load_attribute("mine.py:score").__name__ == "score"
    with pytest.raises(InputError, match=r"'scor' .*'score'"):
        load_attribute("mine.py:scor")
    with pytest.raises(InputError, match=r"mine\.py:NUMBER is a float"):
        load_attribute("mine.py:NUMBER")


@pytest.fixture
def installed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A module that an installed package offers as an entry point."""
    monkeypatch.syspath_prepend(folder)
    entry = metadata.EntryPoint("theirs", "their_rules", plugins.GROUP)
    monkeypatch.setattr(metadata, "entry_points", lambda group: [entry] if group == plugins.GROUP else [])
    load_entry_points.cache_clear()
    yield folder / "their_rules.py"
    load_entry_points.cache_clear()


def test_an_entry_point_is_imported(installed: Path) -> None:
    installed.write_text("")
    load_entry_points()
    assert "their_rules" in sys.modules


def test_an_entry_point_that_cannot_be_imported(installed: Path) -> None:
    installed.write_text("1 / 0\n")
    with pytest.raises(InputError, match=r"'theirs': ZeroDivisionError.*their_rules\.py, line 1"):
        load_entry_points()
