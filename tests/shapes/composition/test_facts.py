"""Facts of a claim, for given detections."""

from __future__ import annotations

import pytest

from stepcredit.shapes.composition.captions import parse
from stepcredit.shapes.composition.claims import COLORS, RELATIONS, SHAPES
from stepcredit.shapes.composition.detector import Detection
from stepcredit.shapes.composition.facts import facts, relation


def seen(shape: str | None, color: str | None = "red", x: float = 8, y: float = 8, area: float = 60) -> Detection:
    return Detection(
        None if shape is None else SHAPES.index(shape), None if color is None else COLORS.index(color), x, y, area
    )


@pytest.mark.parametrize(
    ("text", "detections", "held", "broken"),
    [
        ("a circle", [seen("circle", None)], 2, []),
        ("a circle", [], 0, ["count", "shape 1"]),
        ("a circle", [seen("circle"), seen("circle")], 1, ["count"]),
        ("a red circle", [seen("circle", "blue")], 2, ["color 1"]),
        ("two squares", [seen("square"), seen("square", "blue")], 3, []),
        ("two squares", [seen("square")], 1, ["count", "shape 2"]),
        ("three squares", [seen("square"), seen("circle"), seen("square")], 3, ["shape 3"]),
        ("a circle and a cross", [seen("cross"), seen("circle")], 3, []),
        ("a red circle and a blue cross", [seen("circle", "blue"), seen("cross", "red")], 3, ["color 1", "color 2"]),
        ("a circle above a cross", [seen("circle", y=4), seen("cross", y=20)], 4, []),
        ("a circle below a cross", [seen("circle", y=4), seen("cross", y=20)], 3, ["relation"]),
        ("a circle above a cross", [seen("square", y=4), seen("cross", y=20)], 2, ["shape 1", "relation"]),
    ],
)
def test_facts(text: str, detections: list[Detection], held: int, broken: list[str]) -> None:
    found = facts(parse(text), detections)
    assert sum(found.values()) == held
    assert [name for name, holds in found.items() if not holds] == broken
    assert facts(parse(text), detections[::-1]) == found


def test_facts_of_a_picture_full_of_objects() -> None:
    crowd = [seen("circle", x=x, area=20 + x) for x in range(30)]
    assert facts(parse("two squares"), crowd) == {"count": False, "shape 1": False, "shape 2": False}


@pytest.mark.parametrize(("across", "down", "word"), [(-9, 3, 0), (9, -3, 1), (3, -9, 2), (-3, 9, 3)])
def test_relation(across: float, down: float, word: int) -> None:
    assert relation(seen("circle", x=15 + across, y=15 + down), seen("cross", x=15, y=15)) == RELATIONS[word]
