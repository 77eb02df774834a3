"""Read what a run recorded. Files may be edited or damaged, so anything that is not a drawable number becomes NaN."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stepcredit.errors import InputError, shortened
from stepcredit.report.axes import number
from stepcredit.runs.timing import epoch_seconds

Row = Mapping[str, Any]
"""A line of metrics.jsonl."""

SECONDS = "seconds_"
_MAX_DRAWABLE = 1e150


def json_object(path: Path, remedy: str) -> dict[str, Any]:
    """The object in a JSON file.

    Args:
        remedy: what to do about a damaged file; the end of the error message.

    Raises:
        InputError: the file cannot be read or holds no object.
    """
    try:
        tree = json.loads(path.read_bytes())
        if not isinstance(tree, dict):
            raise TypeError(f"it holds a {type(tree).__name__}")
        return tree
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise InputError(f"{path} is not a JSON object: {shortened(str(error))}; {remedy}") from error


def value(row: Row, key: str) -> float:
    """The number recorded under `key`; NaN if there is none."""
    return drawable(row.get(key))


def drawable(recorded: Any) -> float:
    """`recorded` as a number that can be drawn, NaN for anything else.

    Numbers beyond 1e150 become NaN and numbers below 1e-150 become 0, because the range of an axis would overflow or
    vanish.
    """
    if not isinstance(recorded, int | float) or not -_MAX_DRAWABLE < recorded < _MAX_DRAWABLE:
        return math.nan
    return float(recorded) if abs(recorded) > 1 / _MAX_DRAWABLE else 0.0


def numbers(recorded: Any) -> list[float]:
    """The numbers of a list; empty for anything that is not a list."""
    return [drawable(one) for one in recorded] if isinstance(recorded, list) else []


def mapping(recorded: Any) -> Mapping[str, Any]:
    """`recorded`, or an empty mapping if it is not a mapping."""
    return recorded if isinstance(recorded, Mapping) else {}


def finite(recorded: float) -> float:
    """`recorded`, or 0 if it is not finite."""
    return recorded if math.isfinite(recorded) else 0.0


def as_text(row: Row, key: str) -> str:
    """The number recorded under `key` for a sentence; `unknown` if there is none."""
    recorded = value(row, key)
    return number(recorded) if math.isfinite(recorded) else "unknown"


def total_seconds(rows: Sequence[Row]) -> float:
    """The duration of all epochs."""
    timed = ({key: finite(value(row, key)) for key in row if key.startswith(SECONDS)} for row in rows)
    return sum(map(epoch_seconds, timed))


def duration(seconds: float) -> str:
    """A duration in s, min or h and min."""
    if seconds < 600:
        return f"{seconds:.3g} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"
