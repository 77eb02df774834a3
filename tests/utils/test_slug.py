"""File names for prompts."""

from __future__ import annotations

import os

import pytest

from stepcredit.utils.slug import slug


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("A cat, 2 dogs!", "a-cat-2-dogs"),
        ("一只猫，在月球上", "一只猫-在月球上"),
        ("❤️ and ★", "heavy-black-heart-and-black-star"),
        ("e\u0301t\u00e9", "été"),
        ("a/b\\c:d\0e", "a-b-c-d-e"),
        ("???", "prompt"),
        ("x" * 99, "x" * 60),
        ("..", "prompt"),
    ],
)
def test_names(text: str, name: str) -> None:
    assert slug(text) == name


def test_a_file_system_without_unicode_gets_code_points(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsencode", lambda name: name.encode("ascii"))
    names = {slug(text) for text in ("一只猫", "一条狗", "naïve")}
    assert len(names) == 3 and all(name.isascii() for name in names)
