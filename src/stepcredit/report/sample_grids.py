"""Sample grids in a page: next to each other, or one over the other with a slider."""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

SLIDER = '<div class="compare">'
"""The tag that opens grids with a slider; such a page needs slider.js."""
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class SampleGrid:
    """A sample grid: its caption and the bytes of its PNG file."""

    name: str
    png: bytes

    @property
    def size(self) -> tuple[int, int] | None:
        """Width and height in pixels; None if the bytes are not a PNG."""
        if not self.png.startswith(_PNG_SIGNATURE) or len(self.png) < 24:
            return None
        return int.from_bytes(self.png[16:20]), int.from_bytes(self.png[20:24])


def first_and_last(folder: Path) -> list[SampleGrid]:
    """The first and the last epoch_NNNN.png in a folder."""
    paths = {
        int(name[1]): path
        for path in folder.glob("*.png")
        if (name := re.fullmatch(r"epoch_(\d+)", path.stem)) and path.is_file()
    }
    epochs = sorted(paths)
    return [
        SampleGrid(f"After epoch {epoch}" if epoch else "Before training", paths[epoch].read_bytes())
        for epoch in dict.fromkeys([*epochs[:1], *epochs[-1:]])
    ]


def side_by_side(grids: Sequence[SampleGrid]) -> str:
    """The grids next to each other. If all have the same size, a slider shows two of them one over the other.

    The slider needs a script; without scripts the grids stay next to each other.
    """
    if not grids:
        return ""
    figures = "\n".join(map(_figure, grids))
    same_size = len({grid.size for grid in grids}) == 1 and grids[0].size is not None
    body = f'<div class="grids">\n{figures}\n</div>'
    if len(grids) < 2 or not same_size:
        return body
    return f"{SLIDER}\n{_controls([grid.name for grid in grids])}\n{body}\n</div>"


def _figure(grid: SampleGrid) -> str:
    name = escape(grid.name)
    size = f' width="{grid.size[0]}" height="{grid.size[1]}"' if grid.size else ""
    data = base64.b64encode(grid.png).decode()
    return (
        f'<figure><figcaption>{name}</figcaption><img draggable="false" alt="Grid of captioned samples: {name}"{size} '
        f'src="data:image/png;base64,{data}"></figure>'
    )


def _controls(names: Sequence[str]) -> str:
    left, right = (_side(label, names, chosen) for label, chosen in (("left", 0), ("right", len(names) - 1)))
    return (
        f'<div class="controls" hidden>{left}{right}'
        '<input type="range" min="0" max="100" value="50" aria-label="Visible share of the left picture">'
        '<label class="apart"><input type="checkbox"> Side by side</label></div>'
    )


def _side(label: str, names: Sequence[str], chosen: int) -> str:
    """The name of the picture on one side; with more than two pictures, a menu."""
    if len(names) == 2:
        return f'<span class="{label}">{escape(names[chosen])}</span>'
    options = "".join(
        f"<option{' selected' if index == chosen else ''}>{escape(name)}</option>" for index, name in enumerate(names)
    )
    return f'<select class="{label}" aria-label="Picture on the {label}">{options}</select>'
