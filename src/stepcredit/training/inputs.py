"""Whether a resumed run still has its prompts and its model, which may have moved."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stepcredit.errors import InputError
from stepcredit.runs import history

_KEYS = {"prompts": "prompts.source", "model": "model.path"}


def require_same_inputs(run: Path, inputs: Mapping[str, Any], allow_change: bool) -> dict[str, Any]:
    """The entries of `inputs` that differ from those that the run recorded.

    Args:
        run: the run directory.
        inputs: digests by name, `prompts` and `model`; None if there is none.
        allow_change: accept differences.

    Raises:
        InputError: an entry differs and `allow_change` is false.
    """
    known = history.inputs(run)
    changed = {
        name: digest
        for name, digest in inputs.items()
        if digest is not None and known.get(name) is not None and known[name] != digest
    }
    if changed and not allow_change:
        name = next(iter(changed))
        content = "prompts" if name == "prompts" else "weights"
        raise InputError(
            f"{_KEYS[name]} holds other {content} than the run in {run} had before: set {_KEYS[name]} to the new place "
            f"of its {content}, or add --allow-change (allow_change=True in Python) to resume with these {content}"
        )
    return changed
