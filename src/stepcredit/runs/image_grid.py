"""Grids of captioned images as PNG files."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw
from torch import Tensor

from stepcredit.runs.fonts import CaptionFont
from stepcredit.utils.files import write_atomically

_MIN_SIDE, _MAX_SIDE = 160, 256  # pixels of an image's longer side
_TEXT_SIZE, _LINE_HEIGHT = 13, 17
_MARGIN, _GAP, _CAPTION_GAP = 20, 20, 6
_MAX_LINES, _MAX_LETTERS = 12, 600  # of a paragraph of a caption
_BACKGROUND, _TEXT, _SECONDARY_TEXT, _BORDER = "white", (24, 24, 27), (98, 98, 108), (210, 210, 216)
_PASSED, _FAILED = (21, 110, 51), (185, 28, 28)
_MARKS, _WORDS = ("✗", "✓"), ("fail", "pass")  # the words stand in where no font has the marks

Color = tuple[int, int, int]


@dataclass(frozen=True)
class _Cell:
    picture: Image.Image
    lines: list[tuple[str, Color]]

    @property
    def height(self) -> int:
        return self.picture.height + _CAPTION_GAP + _LINE_HEIGHT * len(self.lines)


def save_grid(
    path: Path, images: Tensor, captions: Sequence[str], *, columns: int = 4, passed: Tensor | None = None
) -> None:
    """Write images and their captions as a PNG file, row by row.

    Images whose longer side has fewer than 160 pixels are enlarged by an integer factor without smoothing. Images with
    more than 256 pixels are reduced. Captions are wrapped to at most 12 lines per paragraph; all paragraphs but the
    first are gray. Characters that no font of the system has are escaped, such as \\u4e00.

    Args:
        images: (N, 3, H, W) in [0, 1]. Values outside are clipped, and NaN is black.
        captions: N texts.
        columns: images per row.
        passed: (N,) bool, whether each image counts as correct. Captions are then green or red, and their last
            paragraph, which holds the score, begins with a check mark or a cross.
    """
    if images.ndim != 4 or images.shape[1] != 3 or len(images) == 0:
        raise ValueError(f"images have shape {tuple(images.shape)}, expected (N, 3, H, W) with N >= 1")
    if len(captions) != len(images):
        raise ValueError(f"{len(captions)} captions for {len(images)} images, expected one per image")
    if columns < 1:
        raise ValueError(f"columns is {columns}, expected at least 1")
    if passed is not None and passed.shape != (len(images),):
        raise ValueError(f"passed has shape {tuple(passed.shape)}, expected ({len(images)},)")
    font = CaptionFont(captions, _TEXT_SIZE)
    pictures = [_picture(image) for image in images]
    width = max(_MIN_SIDE, pictures[0].width)
    outcomes = [None] * len(images) if passed is None else passed.tolist()
    texts = [_caption(text, width, font, outcome) for text, outcome in zip(captions, outcomes, strict=True)]
    cells = [_Cell(picture, text) for picture, text in zip(pictures, texts, strict=True)]
    buffer = io.BytesIO()
    _draw(cells, width, min(columns, len(cells)), font).save(buffer, format="PNG")
    write_atomically(path, buffer.getvalue())


def _picture(image: Tensor) -> Image.Image:
    """The image (3, H, W) at the size at which it is drawn."""
    pixels = (image.detach().float().nan_to_num(0.0).clamp(0, 1) * 255).round().byte()
    picture = Image.fromarray(pixels.permute(1, 2, 0).cpu().numpy())
    longer = max(picture.size)
    if longer < _MIN_SIDE:
        factor = -(-_MIN_SIDE // longer)
        return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)
    if longer > _MAX_SIDE:
        size = [max(1, round(side * _MAX_SIDE / longer)) for side in picture.size]
        return picture.resize((size[0], size[1]), Image.Resampling.LANCZOS)
    return picture


def _draw(cells: Sequence[_Cell], width: int, columns: int, font: CaptionFont) -> Image.Image:
    rows = [cells[start : start + columns] for start in range(0, len(cells), columns)]
    heights = [max(cell.height for cell in row) for row in rows]
    size = (2 * _MARGIN + columns * (width + _GAP) - _GAP, 2 * _MARGIN + sum(heights) + _GAP * (len(rows) - 1))
    sheet = Image.new("RGB", size, _BACKGROUND)
    pen = ImageDraw.Draw(sheet)
    top = _MARGIN
    for row, height in zip(rows, heights, strict=True):
        for column, cell in enumerate(row):
            _place(sheet, pen, cell, (_MARGIN + column * (width + _GAP), top), font)
        top += height + _GAP
    return sheet


def _place(
    sheet: Image.Image, pen: ImageDraw.ImageDraw, cell: _Cell, corner: tuple[int, int], font: CaptionFont
) -> None:
    left, top = corner
    sheet.paste(cell.picture, corner)
    frame = (left - 1, top - 1, left + cell.picture.width, top + cell.picture.height)
    pen.rectangle(frame, outline=_BORDER)  # makes a white image visible
    top += cell.picture.height + _CAPTION_GAP
    for number, (line, color) in enumerate(cell.lines):
        font.draw(pen, (left, top + number * _LINE_HEIGHT), line, color)


def _caption(text: str, width: int, font: CaptionFont, passed: bool | None = None) -> list[tuple[str, Color]]:
    """The wrapped lines of a caption with their colors."""
    paragraphs = _paragraphs(font.readable(text))
    if passed is not None:
        mark = (_MARKS if font.has("".join(_MARKS)) else _WORDS)[passed]
        paragraphs = [*paragraphs[:-1], " ".join([mark, *paragraphs[-1:]])]
    return [
        (line, _color(number, passed))
        for number, paragraph in enumerate(paragraphs)
        for line in _cut(_wrap(paragraph[:_MAX_LETTERS], width, font), shortened=len(paragraph) > _MAX_LETTERS)
    ]


def _color(paragraph: int, passed: bool | None) -> Color:
    if passed is not None:
        return _PASSED if passed else _FAILED
    return _SECONDARY_TEXT if paragraph else _TEXT


def _paragraphs(text: str) -> list[str]:
    """The paragraphs of a caption. If there are too many, the first ones and the last."""
    lines = text.splitlines()
    return lines if len(lines) <= _MAX_LINES else [*lines[: _MAX_LINES - 1], lines[-1]]


def _cut(lines: Iterator[str], shortened: bool) -> list[str]:
    """The first lines, followed by dots if there are more."""
    kept = list(lines)
    if len(kept) <= _MAX_LINES and not shortened:
        return kept
    return [*kept[: _MAX_LINES - 1], "..."]


def _wrap(text: str, width: int, font: CaptionFont) -> Iterator[str]:
    """Lines of at most `width` pixels. A word is broken only if it does not fit into a line of its own."""
    line = ""
    for word in text.split():
        joined = f"{line} {word}" if line else word
        if font.getlength(joined) <= width:
            line = joined
            continue
        if line:
            yield line
        while font.getlength(word) > width:
            fits = _fitting(word, width, font)
            yield word[:fits]
            word = word[fits:]
        line = word
    if line:
        yield line


def _fitting(word: str, width: int, font: CaptionFont) -> int:
    """The number of leading characters of `word` that fit, at least 1."""
    count = 1
    while count < len(word) and font.getlength(word[: count + 1]) <= width:
        count += 1
    return count
