"""The user's own code is imported once, and what goes wrong in it is one line with the place and the error."""

from __future__ import annotations

import importlib
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
from PIL import Image

from stepcredit import plugins
from stepcredit.errors import InputError
from stepcredit.plugins import PluginState, load_attribute, load_entry_points, load_plugin
from stepcredit.utils.python_objects import object_reference

START = """
import sys
from stepcredit.cli.main import main
sys.exit(main())
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder. Modules imported from it are forgotten afterwards."""
    before = set(sys.modules)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry not in ("", ".")])
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


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


NEIGHBORS = {
    "a file and a neighbor": ({"sub/mine.py": "import helper\nVALUE = helper.VALUE", "sub/helper.py": "VALUE = 1"}, ""),
    "a file and a module in the current folder": (
        {"sub/mine.py": "from helper import VALUE", "helper.py": "VALUE = 1"},
        "",
    ),
    "a file and a package in the current folder": (
        {"sub/mine.py": "from tools.helper import VALUE", "tools/helper.py": "VALUE = 1"},
        "",
    ),
    "a relative import": ({"sub/mine.py": "from .helper import VALUE", "sub/helper.py": "VALUE = 1"}, ""),
    "a relative import in a package": (
        {
            "__init__.py": "",
            "sub/__init__.py": "",
            "sub/mine.py": "from . import helper\nfrom ..other import VALUE",
            "sub/helper.py": "",
            "other.py": "VALUE = 1",
        },
        "",
    ),
    "an import in a function": (
        {"sub/mine.py": "def later():\n    import helper\n    return helper.VALUE", "sub/helper.py": "VALUE = 1"},
        "",
    ),
    "a name with a dot": (
        {"sub/mine.v2.py": "from .helper import VALUE", "sub/helper.py": "VALUE = 1"},
        "sub/mine.v2.py",
    ),
    "a module in the current folder": (
        {"my_module.py": "import helper\nVALUE = helper.VALUE", "helper.py": "VALUE = 1"},
        "my_module",
    ),
    "a module of a package": (
        {"my_package/mine.py": "from .helper import VALUE", "my_package/helper.py": "VALUE = 1"},
        "my_package.mine",
    ),
}


@pytest.mark.parametrize("case", NEIGHBORS)
def test_modules_in_the_folder_of_a_file_and_in_the_current_folder_are_found(folder: Path, case: str) -> None:
    files, name = NEIGHBORS[case]
    write(folder / "here", files)
    os.chdir(folder / "here")
    module = load_plugin(name or "sub/mine.py")
    os.chdir(folder)
    assert (module.later() if case == "an import in a function" else module.VALUE) == 1


def test_each_file_gets_its_own_neighbor(folder: Path) -> None:
    for number in "12":
        write(folder / number, {"mine.py": "import helper\nfrom tools import x", "helper.py": f"NUMBER = {number}"})
        write(folder / number, {"tools/x.py": f"NUMBER = {number}"})
    modules = [load_plugin(f"{number}/mine.py") for number in "12"]
    assert [module.helper.NUMBER for module in modules] == [1, 2]
    assert [module.x.NUMBER for module in modules] == [1, 2]


def test_a_module_belongs_to_the_current_folder(folder: Path) -> None:
    for number in "12":
        write(folder / number, {"my_own_module.py": f"NUMBER = {number}"})
        os.chdir(folder / number)
        assert int(number) == load_plugin("my_own_module").NUMBER


def test_neighbors_do_not_hide_installed_packages(folder: Path) -> None:
    write(folder, {"mine.py": "import mypy_extensions_of_nobody", "mypy_extensions_of_nobody.py": "", "netrc.py": ""})
    sys.modules.pop("netrc", None)
    load_plugin("mine.py")
    assert str(folder) not in str(importlib.import_module("netrc").__file__)


def test_the_home_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder / "home"))
    write(folder / "home", {"mine.py": "NUMBER = 1"})
    assert load_plugin("~/mine.py").NUMBER == 1


def test_another_process_imports_the_same_code(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(folder / "here", {"mine.py": "import helper", "helper.py": "", "my_reward.py": "NUMBER = 1"})
    monkeypatch.setattr(plugins, "_loaded", {})
    os.chdir(folder / "here")
    load_plugin("mine.py")
    state = pickle.loads(pickle.dumps(PluginState.of_this_process()))  # noqa: S301
    os.chdir(folder)
    state.restore()
    assert Path.cwd() == folder / "here"
    assert load_plugin("my_reward").NUMBER == 1


def test_a_function_of_a_file_is_recorded_as_the_file_and_its_name(folder: Path) -> None:
    write(
        folder,
        {"mine.py": "def score(images): ...", "sub/mine.py": "from . import x\ndef score(images): ...", "sub/x.py": ""},
    )
    for name in ("mine.py", "sub/mine.py"):
        score = load_attribute(f"{name}:score")
        assert object_reference(score) == f"{folder / name}:score"
        assert load_attribute(object_reference(score)) is score


@pytest.mark.parametrize("start", ["module", "script"])
def test_a_reward_is_found_however_the_program_is_started(folder: Path, start: str) -> None:
    """`python -m stepcredit` has the current folder on its import path; the installed script has its own folder."""
    write(folder, {"my_reward.py": "import helper\nscore = helper.score", "bin/start.py": START})
    write(
        folder, {"helper.py": "def score(images):\n    import later\n    return images.mean((1, 2, 3))", "later.py": ""}
    )
    Image.new("RGB", (8, 8), "white").save(folder / "white.png")
    command = {"module": ["-m", "stepcredit"], "script": ["bin/start.py"]}[start]
    path = os.pathsep.join([str(Path(plugins.__file__).parents[1])])
    result = subprocess.run(
        [sys.executable, *command, "score", "my_reward:score", "white.png", "--prompt", "white", "--json"],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)[0]["score"] == 1


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
