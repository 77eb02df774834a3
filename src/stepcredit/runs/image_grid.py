"""Grids of captioned pictures as one PNG."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from stepcredit.utils.files import write_atomically

_SMALLEST, _LARGEST = 160, 256  # pixels of a picture's longer side
_TEXT_SIZE, _LINE_HEIGHT = 13, 17
_MARGIN, _GAP, _CAPTION_GAP = 20, 20, 6
_LINES, _LETTERS = 12, 600  # of a caption's paragraph, at most
_PAPER, _INK, _FAINT, _EDGE = "white", (24, 24, 27), (98, 98, 108), (210, 210, 216)

Font = ImageFont.ImageFont | ImageFont.FreeTypeFont


@dataclass(frozen=True)
class _Cell:
    picture: Image.Image
    lines: list[tuple[str, tuple[int, int, int]]]

    @property
    def height(self) -> int:
        return self.picture.height + _CAPTION_GAP + _LINE_HEIGHT * len(self.lines)


def save_grid(path: Path, images: Tensor, captions: Sequence[str], *, columns: int = 4) -> None:
    """Write `images` (N,3,H,W) in [0,1] as a PNG, left to right and down, each over its caption.

    Pictures whose longer side is under 160 pixels are enlarged by a whole factor without smoothing, those over 256 are
    reduced. Captions are wrapped and end after 12 lines; what follows a caption's first newline is set apart in grey.
    Values outside [0,1] are clipped and NaN is black.
    """
    if images.ndim != 4 or images.shape[1] != 3 or len(images) == 0:
        raise ValueError(f"images have shape {tuple(images.shape)}; expected (N,3,H,W) with N of at least 1")
    if len(captions) != len(images):
        raise ValueError(f"{len(captions)} captions for {len(images)} images; give one each")
    if columns < 1:
        raise ValueError(f"columns is {columns}; expected at least 1")
    font = _font(captions)
    pictures = [_picture(image) for image in images]
    width = max(_SMALLEST, pictures[0].width)
    cells = [_Cell(picture, _caption(text, width, font)) for picture, text in zip(pictures, captions, strict=True)]
    buffer = io.BytesIO()
    _draw(cells, width, min(columns, len(cells)), font).save(buffer, format="PNG")
    write_atomically(path, buffer.getvalue())


def _picture(image: Tensor) -> Image.Image:
    """(3,H,W) in [0,1] at the size it is shown."""
    pixels = (image.detach().float().nan_to_num(0.0).clamp(0, 1) * 255).round().byte()
    picture = Image.fromarray(pixels.permute(1, 2, 0).cpu().numpy())
    longer = max(picture.size)
    if longer < _SMALLEST:
        factor = -(-_SMALLEST // longer)
        return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)
    if longer > _LARGEST:
        size = [max(1, round(side * _LARGEST / longer)) for side in picture.size]
        return picture.resize((size[0], size[1]), Image.Resampling.LANCZOS)
    return picture


def _draw(cells: Sequence[_Cell], width: int, columns: int, font: Font) -> Image.Image:
    rows = [cells[start : start + columns] for start in range(0, len(cells), columns)]
    heights = [max(cell.height for cell in row) for row in rows]
    size = (2 * _MARGIN + columns * (width + _GAP) - _GAP, 2 * _MARGIN + sum(heights) + _GAP * (len(rows) - 1))
    sheet = Image.new("RGB", size, _PAPER)
    pen = ImageDraw.Draw(sheet)
    top = _MARGIN
    for row, height in zip(rows, heights, strict=True):
        for column, cell in enumerate(row):
            _place(sheet, pen, cell, (_MARGIN + column * (width + _GAP), top), font)
        top += height + _GAP
    return sheet


def _place(sheet: Image.Image, pen: ImageDraw.ImageDraw, cell: _Cell, corner: tuple[int, int], font: Font) -> None:
    left, top = corner
    sheet.paste(cell.picture, corner)
    frame = (left - 1, top - 1, left + cell.picture.width, top + cell.picture.height)
    pen.rectangle(frame, outline=_EDGE)  # a white picture has an edge too
    top += cell.picture.height + _CAPTION_GAP
    for number, (line, color) in enumerate(cell.lines):
        pen.text((left, top + number * _LINE_HEIGHT), line, fill=color, font=font)


def _font(captions: Sequence[str]) -> Font:
    """Pillow's own font, or matplotlib's where a caption has letters which that lacks (neither has Chinese)."""
    if all(caption.isascii() for caption in captions):
        return ImageFont.load_default(_TEXT_SIZE)
    import matplotlib

    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", _TEXT_SIZE - 1)


def _caption(text: str, width: int, font: Font) -> list[tuple[str, tuple[int, int, int]]]:
    """The wrapped lines of a caption, each with its color."""
    return [
        (line, _FAINT if number else _INK)
        for number, paragraph in enumerate(_paragraphs(text))
        for line in _cut(_wrap(paragraph[:_LETTERS], width, font), shortened=len(paragraph) > _LETTERS)
    ]


def _paragraphs(text: str) -> list[str]:
    """The lines of a caption, of very many the first and the last ones."""
    lines = text.splitlines()
    return lines if len(lines) <= _LINES else [*lines[: _LINES - 1], lines[-1]]


def _cut(lines: Iterator[str], shortened: bool) -> list[str]:
    """The first lines, ending in dots if there is more."""
    kept = list(lines)
    if len(kept) <= _LINES and not shortened:
        return kept
    return [*kept[: _LINES - 1], "..."]


def _wrap(text: str, width: int, font: Font) -> Iterator[str]:
    """Lines of at most `width` pixels, broken between words, and inside a word only where it alone is too long."""
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


def _fitting(word: str, width: int, font: Font) -> int:
    """How many leading characters of `word` fit, at least 1."""
    count = 1
    while count < len(word) and font.getlength(word[: count + 1]) <= width:
        count += 1
    return count
