"""Fonts for captions: Pillow's own for ASCII, the system's for other scripts, escapes where no font has a character."""

from __future__ import annotations

import os
import sys
import unicodedata
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import groupby
from pathlib import Path

from PIL import ImageDraw, ImageFont

Font = ImageFont.ImageFont | ImageFont.FreeTypeFont

_SUFFIXES = (".ttf", ".otf", ".ttc")
_PREFERRED = (
    "notosanscjk",
    "dejavusans.",
    "notosans-regular",
    "arial unicode",
    "arial.",
    "unifont",
    "notosans",
    "noto",
)
"""Beginnings of file names, the best font first."""
_MAX_FONTS = 200
_MISSING = "\U0010fffe"
"""No font has a glyph for this code point."""


class CaptionFont:
    """Measures and draws single lines of text, each character in a font that has it.

    Args:
        texts: what will be drawn. If one font has all characters, all text is drawn in it.
        size: in pixels.
    """

    def __init__(self, texts: Sequence[str], size: int) -> None:
        self._own = ImageFont.load_default(size)
        self._size = size
        others = "".join(sorted({letter for text in texts for letter in text if _needs_font(letter)}))
        self._main = self._complete_font(others) if others else self._own

    def readable(self, text: str) -> str:
        """`text` with escapes, such as \\u4e00, in place of characters that no font has."""
        return "".join(letter if self._can_draw(letter) else ascii(letter)[1:-1] for letter in text)

    def has(self, text: str) -> bool:
        """Whether every character of `text` can be drawn."""
        return all(map(self._can_draw, text))

    def getlength(self, text: str) -> float:
        """The width of a line in pixels."""
        return sum(font.getlength(run) for font, run in self._runs(text))

    def draw(
        self, pen: ImageDraw.ImageDraw, corner: tuple[float, float], text: str, color: tuple[int, int, int]
    ) -> None:
        """Draw a line whose upper left corner is `corner`."""
        left, top = corner
        for font, run in self._runs(text):
            pen.text((left, top + _ascent(self._main) - _ascent(font)), run, fill=color, font=font)
            left += font.getlength(run)

    def _can_draw(self, letter: str) -> bool:
        return self._font(letter) is not None and (letter.isprintable() or not letter.isascii() or letter.isspace())

    def _runs(self, text: str) -> Iterator[tuple[Font, str]]:
        """The text in pieces of one font. Marks and joiners stay with the character before them."""
        fonts: list[Font] = []
        for letter in text:
            follows = fonts and unicodedata.category(letter) in ("Mn", "Mc", "Me", "Cf")
            fonts.append(fonts[-1] if follows else self._font(letter) or self._main)
        for font, run in groupby(zip(fonts, text, strict=True), key=lambda pair: pair[0]):
            yield font, "".join(letter for _, letter in run)

    def _font(self, letter: str) -> Font | None:
        """The font for a character; None if no font has it."""
        if not _needs_font(letter) or (self._main is not self._own and _has(self._main, letter)):
            return self._main
        return _find(letter, self._size)

    def _complete_font(self, letters: str) -> Font:
        """The first font that has all of `letters`; Pillow's own if there is none."""
        for font in _system_fonts(self._size):
            if all(_has(font, letter) for letter in letters):
                return font
        return self._own


def _needs_font(letter: str) -> bool:
    return not letter.isascii() and not letter.isspace() and not _is_invisible(letter)


def _is_invisible(letter: str) -> bool:
    return unicodedata.category(letter) == "Cf" or "\ufe00" <= letter <= "\ufe0f"


def _ascent(font: Font) -> int:
    return font.getmetrics()[0] if isinstance(font, ImageFont.FreeTypeFont) else 0


@cache
def _find(letter: str, size: int) -> Font | None:
    return next((font for font in _system_fonts(size) if _has(font, letter)), None)


@cache
def _has(font: Font, letter: str) -> bool:
    """Whether the font has a glyph for the character and does not draw a box or nothing in its place."""
    if not isinstance(font, ImageFont.FreeTypeFont):
        return letter.isascii()
    plain = _unshaped(font)
    drawn, missing = plain.getmask(letter), plain.getmask(_MISSING)
    return (drawn.size, bytes(drawn)) != (missing.size, bytes(missing)) and drawn.getbbox() is not None


@cache
def _unshaped(font: ImageFont.FreeTypeFont) -> ImageFont.FreeTypeFont:
    return font.font_variant(layout_engine=ImageFont.Layout.BASIC)


def _system_fonts(size: int) -> Iterator[ImageFont.FreeTypeFont]:
    """Fonts are loaded one at a time, because a system may have hundreds."""
    for path in _known_files():
        font = _load(path, size - 1)  # Pillow's own looks larger
        if font is not None:
            yield font


@cache
def _load(path: Path, size: int) -> ImageFont.FreeTypeFont | None:
    try:
        return ImageFont.truetype(path, size)
    except OSError:  # a damaged file, or a font of colored bitmaps of another size
        return None


@cache
def _known_files() -> Sequence[Path]:
    return font_files()


def font_files() -> list[Path]:
    """The font files of this machine, those with many scripts first."""
    found = {
        path.name.lower(): path
        for folder in _font_folders()
        if folder.is_dir()
        for path in folder.rglob("*")
        if path.suffix.lower() in _SUFFIXES
    }
    return [found[name] for name in sorted(found, key=_rank)][:_MAX_FONTS]


def _rank(name: str) -> tuple[int, str]:
    place = next((number for number, start in enumerate(_PREFERRED) if name.startswith(start)), len(_PREFERRED))
    return place, name


def _font_folders() -> list[Path]:
    if sys.platform == "win32":
        return [Path(os.environ.get("WINDIR", r"C:\Windows")) / "Fonts"]
    if sys.platform == "darwin":
        return [Path("/System/Library/Fonts"), Path("/Library/Fonts"), Path.home() / "Library/Fonts"]
    data = os.environ.get("XDG_DATA_DIRS") or "/usr/local/share:/usr/share"
    home = os.environ.get("XDG_DATA_HOME") or str(Path.home() / ".local/share")
    return [*(Path(folder) / "fonts" for folder in (home, *data.split(":"))), Path.home() / ".fonts"]
