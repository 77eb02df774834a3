"""Trackers show the metrics and sample images of a run somewhere else, such as in TensorBoard.

Each file of this folder defines one. A tracker of your own is a new file here, or a class that `run.trackers` names as
`module:Class` or `path/file.py:Class`. metrics.jsonl stays the exact record of a run: it does not depend on trackers.
"""

from __future__ import annotations

from collections.abc import Callable

from stepcredit.registry import Registered, Registry
from stepcredit.runs.trackers.base import Tracker, TrackerFactory

__all__ = ["TRACKERS", "Tracker", "TrackerFactory", "register_tracker"]

TRACKERS: Registry[TrackerFactory] = Registry("tracker", "stepcredit.runs.trackers")


def register_tracker(name: str) -> Callable[[Registered], Registered]:
    """Decorator that makes a class available in `run.trackers`; see `TrackerFactory` for its arguments.

    Raises:
        InputError: another tracker has the name.
    """
    return TRACKERS.register(name)
