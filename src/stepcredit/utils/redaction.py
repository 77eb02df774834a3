"""What must never be written down: keys, tokens, and addresses with a password in them.

A run directory is passed on and published, so its config.yaml and environment.json may hold none. This finds what is
recognizable, by the name of the option or by the shape of the value; a secret that looks like any other word it cannot.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

_NAME = (
    r"(?:[\w-]*(?:api[_-]?key|access[_-]?key|private[_-]?key|password|passwd|passphrase|secret|authorization)"
    r"|(?:(?:access|api|auth|bearer|hf|hub|server)[_-]?)?token|credentials?)"
)
_NAMED = re.compile(_NAME, re.IGNORECASE)
_SHAPES = re.compile(
    r"(?<=://)[^/?#\s@]+(?=@)"  # http://user:password@host
    rf"|(?<=[?&])(?:key|sig|signature|x-amz-signature|{_NAME})=[^&\s]+"
    r"|\bBearer\s+[^\s'\"]+"
    r"|\b(?:hf_|gh[opsu]_|github_pat_|sk-|xox[bp]-|AKIA)[A-Za-z0-9_-]{16,}",
    re.IGNORECASE,
)
_GIVEN = re.compile(rf"(?<![\w-])({_NAME})([\"']?\s*[:=]\s*)(?:\"[^\"]+\"|'[^']+'|[^\s,}}&\"']+)", re.IGNORECASE)
MASK = "***"


def secret_place(tree: Any, place: str = "") -> str | None:
    """The dotted key of the first secret in a tree of mappings, lists and scalars; None if there is none.

    >>> secret_place({"reward": {"options": {"api_key": "x"}}})
    'reward.options.api_key'
    """
    if isinstance(tree, str):
        return place if _SHAPES.search(tree) else None
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            inner = f"{place}.{key}" if place else str(key)
            if isinstance(value, str) and value and _NAMED.fullmatch(str(key)):
                return inner
            if (found := secret_place(value, inner)) is not None:
                return found
    elif isinstance(tree, Sequence):
        places = (secret_place(value, f"{place}.{number}") for number, value in enumerate(tree))
        return next((found for found in places if found is not None), None)
    return None


def masked(text: str) -> str:
    """`text` with every secret in it replaced by `***`.

    >>> masked("reward.options.api_key=abc model.path=https://me:pw@host/x")
    'reward.options.api_key=*** model.path=https://***@host/x'
    """
    return _GIVEN.sub(rf"\1\2{MASK}", _SHAPES.sub(MASK, text))
