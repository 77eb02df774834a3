"""The history of a run: what has changed since it was started, one JSON object per line of history.jsonl."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from stepcredit.types import Prompt
from stepcredit.utils.files import append_whole

_NAME = "history.jsonl"


def append_event(run: Path, event: Mapping[str, Any]) -> None:
    """Append an event with the present time. It is on disk when this returns. Raises OSError."""
    row = {"time": datetime.now(UTC).isoformat(timespec="seconds"), **event}
    append_whole(run / _NAME, (json.dumps(row, default=str) + "\n").encode())


def events(run: Path) -> list[dict[str, Any]]:
    """The events of a run, the oldest first. Lines that cannot be read are left out."""
    try:
        lines = (run / _NAME).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return []
    return [row for row in map(_row, lines) if row is not None]


def inputs(run: Path) -> dict[str, Any]:
    """The digests of prompts and model that the run had last; empty for a run of version 0.1."""
    known = _row(_text(run / "environment.json")) or {}
    latest = [known, *events(run)]
    return {
        name: value for row in latest if isinstance(row.get("inputs"), dict) for name, value in row["inputs"].items()
    }


def prompts_digest(prompts: Sequence[Prompt]) -> str:
    """SHA-256 of the texts and the metadata of prompts."""
    digest = hashlib.sha256()
    for prompt in prompts:
        digest.update(json.dumps([prompt.text, prompt.metadata], default=lambda value: type(value).__name__).encode())
    return digest.hexdigest()


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""


def _row(text: str) -> dict[str, Any] | None:
    try:
        row = json.loads(text)
    except ValueError:
        return None
    return row if isinstance(row, dict) else None
