"""Sample grids inside the page: side by side, or with a slider one over the other."""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

OPENING = '<div class="compare">'
_SIGNATURE = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class Picture:
    """A sample grid: what the page calls it, and the PNG's bytes."""

    name: str
    png: bytes

    @property
    def size(self) -> tuple[int, int] | None:
        """Pixels, width and height; None for bytes that are no PNG."""
        if not self.png.startswith(_SIGNATURE) or len(self.png) < 24:
            return None
        return int.from_bytes(self.png[16:20]), int.from_bytes(self.png[20:24])


def first_and_last(folder: Path) -> list[Picture]:
    """Of the epoch_NNNN.png in a folder, the only ones shown."""
    found = {
        int(name[1]): path
        for path in folder.glob("*.png")
        if (name := re.fullmatch(r"epoch_(\d+)", path.stem)) and path.is_file()
    }
    epochs = sorted(found)
    return [
        Picture(f"After epoch {epoch}" if epoch else "Before training", found[epoch].read_bytes())
        for epoch in dict.fromkeys([*epochs[:1], *epochs[-1:]])
    ]


def side_by_side(pictures: Sequence[Picture]) -> str:
    """The pictures beside each other, and if they are alike in size a slider between two of them.

    The slider is the page's script's; without scripts the pictures stay beside each other.
    """
    if not pictures:
        return ""
    figures = "\n".join(map(_figure, pictures))
    alike = len({picture.size for picture in pictures}) == 1 and pictures[0].size is not None
    grids = f'<div class="grids">\n{figures}\n</div>'
    if len(pictures) < 2 or not alike:
        return grids
    return f"{OPENING}\n{_controls([picture.name for picture in pictures])}\n{grids}\n</div>"


def _figure(picture: Picture) -> str:
    name = escape(picture.name)
    size = f' width="{picture.size[0]}" height="{picture.size[1]}"' if picture.size else ""
    data = base64.b64encode(picture.png).decode()
    return (
        f'<figure><figcaption>{name}</figcaption><img draggable="false" alt="Grid of captioned samples: {name}"{size} '
        f'src="data:image/png;base64,{data}"></figure>'
    )


def _controls(names: Sequence[str]) -> str:
    left, right = (_side(label, names, chosen) for label, chosen in (("left", 0), ("right", len(names) - 1)))
    return (
        f'<div class="controls" hidden>{left}{right}'
        '<input type="range" min="0" max="100" value="50" aria-label="How much of the left picture is shown">'
        '<label class="apart"><input type="checkbox"> Side by side</label></div>'
    )


def _side(label: str, names: Sequence[str], chosen: int) -> str:
    """The name of a side's picture; of more than two, a choice among them."""
    if len(names) == 2:
        return f'<span class="{label}">{escape(names[chosen])}</span>'
    options = "".join(
        f"<option{' selected' if index == chosen else ''}>{escape(name)}</option>" for index, name in enumerate(names)
    )
    return f'<select class="{label}" aria-label="Picture on the {label}">{options}</select>'
