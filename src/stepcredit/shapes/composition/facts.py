"""Which facts of a claim hold in a picture."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations

from stepcredit.shapes.composition.claims import COLORS, RELATIONS, SHAPES, Claim
from stepcredit.shapes.composition.detector import Detection

_MOST = 6
"""Pictures with more objects are judged by the largest ones: all orders of the objects are tried."""


def facts(claim: Claim, detections: Sequence[Detection]) -> dict[str, bool]:
    """Whether each fact of a claim holds, by its name.

    The facts are the number of objects; the shape of each named object, and its color if it is named; and the relation.
    A relation holds between objects that have the named shape: the distance along its axis is the larger one. The
    detected objects are matched with the named ones so that the most facts hold; of equal matches, one in which the
    earlier facts hold is taken.

    >>> from stepcredit.shapes.composition.captions import parse
    >>> facts(parse("a red circle"), [Detection(shape=0, color=1, x=9, y=9, area=80)])
    {'count': True, 'shape 1': True, 'color 1': False}
    """
    largest = sorted(detections, key=lambda found: -found.area)[:_MOST]
    slots: list[Detection | None] = [*largest, *[None] * len(claim.objects)]
    exact = len(detections) == len(claim.objects)
    matched = (_facts(claim, order) for order in permutations(slots, len(claim.objects)))
    best = max(matched, key=lambda found: (sum(found.values()), *found.values()))
    return {"count": exact, **best}


def _facts(claim: Claim, matched: Sequence[Detection | None]) -> dict[str, bool]:
    found: dict[str, bool] = {}
    for number, (named, detection) in enumerate(zip(claim.objects, matched, strict=True), start=1):
        found[f"shape {number}"] = detection is not None and detection.shape == SHAPES.index(named.shape)
        if named.color is not None:
            found[f"color {number}"] = detection is not None and detection.color == COLORS.index(named.color)
    if claim.relation is not None:
        first, second = matched
        shaped = found["shape 1"] and found["shape 2"]
        found["relation"] = (
            shaped and first is not None and second is not None and relation(first, second) == claim.relation
        )
    return found


def relation(first: Detection, second: Detection) -> str:
    """Where `first` is as seen from `second`: a word of RELATIONS, along the axis of the larger distance."""
    across, down = first.x - second.x, first.y - second.y
    if abs(across) >= abs(down):
        return RELATIONS[0] if across < 0 else RELATIONS[1]
    return RELATIONS[2] if down < 0 else RELATIONS[3]
