"""What was recorded, which may be anything: of rows, what is no number that can be drawn is NaN."""

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

SECONDS = "seconds_"
_DRAWN = 1e150


def json_object(path: Path, remedy: str) -> dict[str, Any]:
    """What a JSON file holds; InputError, which ends with `remedy`, unless it is an object."""
    try:
        found = json.loads(path.read_bytes())
        if not isinstance(found, dict):
            raise TypeError(f"it holds a {type(found).__name__}")
        return found
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise InputError(f"{path} is not a JSON object: {shortened(str(error))}; {remedy}") from error


def value(row: Row, key: str) -> float:
    """The number recorded under `key`, NaN where there is none."""
    return drawable(row.get(key))


def drawable(found: Any) -> float:
    """`found` if it is a number that can be drawn: the range of sizes beyond 1e150 overflows, below 1e-150 vanishes."""
    if not isinstance(found, int | float) or not -_DRAWN < found < _DRAWN:
        return math.nan
    return float(found) if abs(found) > 1 / _DRAWN else 0.0


def numbers(found: Any) -> list[float]:
    """Of a list, none of anything else."""
    return [drawable(one) for one in found] if isinstance(found, list) else []


def mapping(found: Any) -> Mapping[str, Any]:
    return found if isinstance(found, Mapping) else {}


def finite(found: float) -> float:
    """0 for what is not."""
    return found if math.isfinite(found) else 0.0


def read(row: Row, key: str) -> str:
    """As it is written in a sentence."""
    found = value(row, key)
    return number(found) if math.isfinite(found) else "unknown"


def seconds(rows: Sequence[Row]) -> float:
    """What the epochs took together."""
    timed = ({key: finite(value(row, key)) for key in row if key.startswith(SECONDS)} for row in rows)
    return sum(map(epoch_seconds, timed))


def duration(length: float) -> str:
    """Seconds as a person says them."""
    if length < 600:
        return f"{length:.3g} s"
    minutes = round(length / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"
