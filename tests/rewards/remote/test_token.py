"""Where the token comes from; errors never quote it."""

from __future__ import annotations

from pathlib import Path

import pytest

from stepcredit.errors import InputError
from stepcredit.rewards.remote.token import VARIABLE, read_token


def test_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    assert read_token(None) is None
    monkeypatch.setenv(VARIABLE, "secret")
    assert read_token(None) == "secret"


def test_a_file_takes_precedence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "other")
    (tmp_path / "token").write_text("secret\n")
    assert read_token(tmp_path / "token") == "secret"


@pytest.mark.parametrize("token", ["", "   ", "sesame open", "séçret", "sesame\x07", "sesame\nopen"], ids=range(6))
def test_an_invalid_token(tmp_path: Path, token: str) -> None:
    (tmp_path / "token").write_text(token, encoding="utf-8")
    with pytest.raises(InputError, match="printable ASCII") as caught:
        read_token(tmp_path / "token")
    assert "sesame" not in str(caught.value) and str(tmp_path / "token") in str(caught.value)


def test_an_empty_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "")
    with pytest.raises(InputError, match=f"the token in {VARIABLE} must be"):
        read_token(None)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot read the token file .*none: No such file"):
        read_token(tmp_path / "none")
    (tmp_path / "token").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="it is not text"):
        read_token(tmp_path / "token")
