"""The log file with tracebacks of the user's code."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest

from stepcredit.errors import InputError, RewardError, caused_by
from stepcredit.utils import error_log
from stepcredit.utils.error_log import with_log, write_error_log


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, and one for temporary files."""
    (tmp_path / "here").mkdir()
    (tmp_path / "temporary").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(error_log.tempfile, "gettempdir", lambda: str(tmp_path / "temporary"))
    return tmp_path / "here"


def raised(words: str = "no such key") -> RewardError:
    """An error with an exception of the user's code behind it, reported again with another message."""
    try:
        try:
            raise KeyError(words)
        except KeyError as error:
            raise caused_by(error, InputError("the reward raised KeyError")) from error
    except InputError as error:
        again = RewardError(f"epoch 2: {error}")
        again.__cause__ = error
        return again


def test_the_message_and_the_traceback_are_appended(here: Path) -> None:
    for _ in range(2):
        assert write_error_log(raised()) == Path("stepcredit.log")
    text = (here / "stepcredit.log").read_text()
    assert text.count("epoch 2: the reward raised KeyError\nTraceback") == 2
    assert text.count("KeyError: 'no such key'") == 2


def test_an_error_without_an_exception_of_the_user_is_not_logged(here: Path) -> None:
    assert write_error_log(InputError("unknown key")) is None
    assert list(here.iterdir()) == []
    assert with_log("unknown key", None) == "unknown key"


def test_the_run_directory_comes_first_if_it_exists(here: Path) -> None:
    error = raised()
    error.log_dir = here / "run"
    assert write_error_log(error) == Path("stepcredit.log")
    (here / "run").mkdir()
    assert write_error_log(error) == here / "run" / "stepcredit.log"


def test_the_folder_for_temporary_files_comes_last(here: Path) -> None:
    (here / "stepcredit.log").mkdir()  # cannot be opened
    assert write_error_log(raised()) == here.parent / "temporary" / "stepcredit.log"
    (here.parent / "temporary" / "stepcredit.log").unlink()
    (here.parent / "temporary" / "stepcredit.log").mkdir()
    assert write_error_log(raised()) is None


def test_secrets_are_masked(here: Path) -> None:
    write_error_log(raised("api_key=abcdef"))
    assert "abcdef" not in (here / "stepcredit.log").read_text()


def test_the_traceback_reaches_other_processes() -> None:
    cause = raised().__cause__
    assert isinstance(cause, InputError)
    assert "KeyError" in copy.copy(cause).traceback  # as pickle copies it
