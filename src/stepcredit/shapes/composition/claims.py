"""What a caption of the composition world claims about a picture."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

SHAPES = ("circle", "square", "triangle", "cross")
COLORS = ("red", "green", "blue", "yellow", "purple", "cyan")
RELATIONS = ("left of", "right of", "above", "below")
TASKS = ("single_object", "two_objects", "counting", "colors", "position", "color_attribution")
MAX_COUNT = 4
"""The largest number of objects in a picture."""

UNSEEN_COLORS = (("cross", "cyan"), ("triangle", "purple"), ("square", "yellow"))
"""Objects (shape, color) that no training claim names."""

UNSEEN_SHAPES = (("circle", "cross"), ("square", "triangle"))
"""Pairs of shapes, in any order, of which no training claim states a position."""


@dataclass(frozen=True)
class Named:
    """An object as a claim names it.

    Attributes:
        shape: a word of SHAPES.
        color: a word of COLORS; None leaves it open.
    """

    shape: str
    color: str | None = None


@dataclass(frozen=True)
class Claim:
    """What a picture must show: exactly these objects and no others.

    Attributes:
        task: a word of TASKS.
        objects: the objects, in the order in which a caption names them.
        relation: where the first object is as seen from the second, a word of RELATIONS; None if that is open.
    """

    task: str
    objects: tuple[Named, ...]
    relation: str | None = None


def all_claims(task: str) -> Iterator[Claim]:
    """Every claim of a task, in a fixed order.

    The two objects of a claim have different shapes, and different colors if it names them. Counts run from 2 to
    MAX_COUNT.
    """
    pairs = [(left, right) for left, right in product(SHAPES, SHAPES) if left != right]
    if task == "single_object":
        yield from (Claim(task, (Named(shape),)) for shape in SHAPES)
    elif task == "colors":
        yield from (Claim(task, (Named(shape, color),)) for shape, color in product(SHAPES, COLORS))
    elif task == "counting":
        yield from (Claim(task, (Named(shape),) * n) for shape, n in product(SHAPES, range(2, MAX_COUNT + 1)))
    elif task == "two_objects":
        yield from (Claim(task, (Named(left), Named(right))) for left, right in pairs)
    elif task == "position":
        yield from (
            Claim(task, (Named(left), Named(right)), relation) for (left, right), relation in product(pairs, RELATIONS)
        )
    else:
        yield from (
            Claim(task, (Named(left, one), Named(right, other)))
            for (left, right), one, other in product(pairs, COLORS, COLORS)
            if one != other
        )


def has_unseen_pair(claim: Claim) -> bool:
    """Whether the claim combines words that no training claim combines, see UNSEEN_COLORS and UNSEEN_SHAPES."""
    shapes = tuple(sorted(named.shape for named in claim.objects))
    return any((named.shape, named.color) in UNSEEN_COLORS for named in claim.objects) or (
        claim.relation is not None and shapes in UNSEEN_SHAPES
    )
