"""The entry point: help without torch, lists, and one-line errors."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.cli.command_line import only_line, refused, stepcredit

from stepcredit import __version__
from stepcredit.algorithms import ALGORITHMS
from stepcredit.cli import main
from stepcredit.credit import CREDIT
from stepcredit.errors import InputError, Interrupted, StepcreditError
from stepcredit.prompts import prompt_names
from stepcredit.rewards import REWARDS
from stepcredit.runs.recipes import packaged

SCRIPT = Path(sys.executable).with_name("stepcredit")
COMMANDS = [[str(SCRIPT)], [sys.executable, "-m", "stepcredit"]]
HEAVY = ("torch", "diffusers", "transformers", "numpy", "matplotlib", "PIL")


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    yield


def process(command: list[str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=60, check=False)


# Help


@pytest.mark.parametrize("command", COMMANDS, ids=["script", "module"])
def test_the_program_can_be_started(command: list[str]) -> None:
    if not Path(command[0]).exists():
        pytest.skip("the package is not installed as a script")
    said = process(command, "--version")
    assert (said.returncode, said.stdout, said.stderr) == (0, f"stepcredit {__version__}\n", "")


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["-h"], ["train", "-h"], ["sample", "--help"], ["compare", "--help"], ["report", "--help"], []],
    ids=" ".join,
)
def test_help_does_not_import_torch(arguments: list[str]) -> None:
    code = (
        "import sys; from stepcredit.cli.main import main; code = main(sys.argv[1:]); "
        f"print([name for name in {HEAVY!r} if name in sys.modules]); sys.exit(code)"
    )
    said = process([sys.executable, "-c", code], *arguments)
    assert said.returncode == 0
    assert said.stdout.splitlines()[0].startswith("Usage: stepcredit")
    assert said.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    "arguments", [["train", "sampel.steps=3"], ["train", "no-such-recipe"], ["compare", "no-such"]], ids=" ".join
)
def test_a_mistyped_word_is_reported_without_importing_torch(arguments: list[str]) -> None:
    code = (
        "import sys; from stepcredit.cli.main import main; code = main(sys.argv[1:]); "
        f"print([name for name in {HEAVY!r} if name in sys.modules]); sys.exit(code)"
    )
    said = process([sys.executable, "-c", code], *arguments)
    assert said.returncode == 2
    assert said.stdout == "[]\n"
    assert said.stderr.startswith("stepcredit: unknown ") and said.stderr.count("\n") == 1


@pytest.mark.parametrize("command", COMMANDS, ids=["script", "module"])
def test_the_process_returns_the_exit_code(command: list[str]) -> None:
    if not Path(command[0]).exists():
        pytest.skip("the package is not installed as a script")
    said = process(command, "train", "sampel.steps=3")
    assert (said.returncode, said.stdout) == (2, "")
    assert said.stderr == "stepcredit: unknown key 'sampel'; did you mean 'sample'?\n"


# Lists


def names(kind: str) -> list[str]:
    return [line.split()[0] for line in stepcredit("list", kind).out.splitlines()]


def test_list_has_every_registered_name() -> None:
    assert names("credit") == CREDIT.names()
    assert names("reward") == REWARDS.names()
    assert names("recipe") == list(packaged())
    assert names("algorithm") == ALGORITHMS.names()
    assert names("prompt") == list(prompt_names())


@pytest.mark.parametrize("kind", ["credit", "reward", "prompt", "recipe", "algorithm", "sampler", "tracker"])
def test_list_describes_every_part_in_text_and_json(kind: str) -> None:
    said = stepcredit("list", kind)
    parts = json.loads(stepcredit("list", kind, "--json").out)
    assert said.code == 0 and len(parts) == len(said.out.splitlines())
    for line, part in zip(said.out.splitlines(), parts, strict=True):
        assert list(part)[:2] == ["name", "description"]
        assert len(part["description"]) > 10
        assert line.split(maxsplit=1)[0] == part["name"] and part["description"] in line


def test_listing_recipes_does_not_import_torch() -> None:
    code = "import sys; from stepcredit.cli.list import show; show('recipe', False); sys.exit('torch' in sys.modules)"
    assert process([sys.executable, "-c", code]).returncode == 0


# Errors


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["list", "recip"], "unknown kind of part 'recip' (did you mean 'recipe'?); known: "),
        (["list"], "Missing argument 'credit|reward|prompt|recipe|"),
        (["trian"], "No such command 'trian'. Did you mean 'train'?"),
        (["train", "--rum", "a"], "No such option: --rum"),
        (["sample"], "Missing argument 'RUN|MODEL'."),
        (
            ["sample", "embedded", "--images", "0"],
            "Invalid value for '--images': Input should be greater than or",
        ),
        (["sample", "embedded", "--seed", "one"], "Invalid value for '--seed': Input should be a valid integer"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_a_one_line_error(arguments: list[str], line: str) -> None:
    assert refused(*arguments).startswith(line)


@pytest.mark.parametrize(
    ("error", "code"), [(StepcreditError("a\nb"), 1), (InputError("a\nb"), 2), (Interrupted("a\nb"), 130)]
)
def test_errors_of_the_package_are_one_line_with_their_exit_code(
    monkeypatch: pytest.MonkeyPatch, error: StepcreditError, code: int
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("stepcredit.cli.list.show", fail)
    said = stepcredit("list", "credit")
    assert said.code == code
    assert only_line(said) == "a b"


def test_ctrl_c_prints_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("stepcredit.cli.list.show", interrupt)
    said = stepcredit("list", "credit")
    assert (said.code, only_line(said)) == (130, "interrupted")


def test_any_other_error_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stepcredit.cli.list.show", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main.main(["list", "credit"])


def test_a_closed_pipe_prints_no_traceback() -> None:
    """As in `stepcredit list reward | head -1`, after `head` has ended."""
    reading, writing = os.pipe()
    os.close(reading)
    code = "import sys; from stepcredit.cli.main import main; sys.exit(main(['--help']))"
    said = subprocess.run([sys.executable, "-c", code], stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writing)
    assert "Traceback" not in said.stderr
