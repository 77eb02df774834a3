"""Captions in any script can be read: a font of the system is used, and otherwise escapes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from stepcredit.runs import fonts
from stepcredit.runs.fonts import CaptionFont
from stepcredit.runs.image_grid import save_grid

PAIRS = {
    "Chinese": ("一只猫", "一条狗"),
    "Hindi": ("एक बिल्ली", "एक कुत्ता"),
    "emoji": ("🐈 on the moon", "🐕 on the moon"),
    "emoji with joiners": ("👩\u200d🚀 in space", "👨\u200d🚀 in space"),
    "Arabic": ("قطة", "كلب"),
    "Thai": ("แมว", "หมา"),
    "Cyrillic": ("кошка", "собака"),
    "private use": ("\ue000", "\ue001"),
    "control characters": ("a\x07", "a\x08"),
    "mixed": ("a 猫 and собака", "a 狗 and собака"),
}


def picture(folder: Path, caption: str) -> np.ndarray:
    save_grid(folder / "a.png", torch.ones(1, 3, 32, 32), [caption])
    with Image.open(folder / "a.png") as image:
        return np.asarray(image)


@pytest.fixture
def no_fonts(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A system without fonts."""
    caches = (fonts._known_files, fonts._find)
    monkeypatch.setattr(fonts, "font_files", list)
    for function in caches:
        function.cache_clear()
    yield
    for function in caches:
        function.cache_clear()


@pytest.mark.parametrize("texts", PAIRS.values(), ids=PAIRS)
def test_different_captions_look_different(tmp_path: Path, texts: Sequence[str]) -> None:
    one, other = (picture(tmp_path, text) for text in texts)
    assert one.shape != other.shape or not np.array_equal(one, other)


@pytest.mark.usefixtures("no_fonts")
@pytest.mark.parametrize("texts", PAIRS.values(), ids=PAIRS)
def test_without_fonts_different_captions_look_different(tmp_path: Path, texts: Sequence[str]) -> None:
    test_different_captions_look_different(tmp_path, texts)


@pytest.mark.usefixtures("no_fonts")
def test_characters_without_a_font_are_escaped(tmp_path: Path) -> None:
    assert CaptionFont(["一"], 13).readable("a 一") == "a \\u4e00"
    assert np.array_equal(picture(tmp_path, "a 一"), picture(tmp_path, "a \\u4e00"))


@pytest.mark.usefixtures("no_fonts")
def test_marks_need_a_font() -> None:
    font = CaptionFont(["a"], 13)
    assert font.has("pass 0.5") and not font.has("✓")


def test_a_font_of_the_system_is_used() -> None:
    text = "кошка"
    if not any(fonts._has(font, "к") for font in fonts._system_fonts(13)):
        pytest.skip("this machine has no font with Cyrillic letters")
    font = CaptionFont([text], 13)
    assert font.readable(text) == text and font.getlength(text) > 10


def test_a_damaged_font_is_skipped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "fonts").mkdir()
    (tmp_path / "fonts" / "NotoSansCJK-Regular.ttc").write_bytes(b"not a font")
    monkeypatch.setattr(fonts, "_font_folders", lambda: [tmp_path / "fonts", tmp_path / "absent"])
    fonts._known_files.cache_clear()
    assert len(fonts.font_files()) == 1 and list(fonts._system_fonts(13)) == []
    fonts._known_files.cache_clear()
