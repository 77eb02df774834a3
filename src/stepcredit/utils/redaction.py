"""Find and mask secrets: API keys, tokens, and URLs with a password.

Run directories are shared and published, so config.yaml and environment.json must not contain secrets. A secret is
recognized by the name of its option or by its shape; one that looks like an ordinary word is not.
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
_ASSIGNED = re.compile(rf"(?<![\w-])({_NAME})([\"']?\s*[:=]\s*)(?:\"[^\"]+\"|'[^']+'|[^\s,}}&\"']+)", re.IGNORECASE)
MASK = "***"


def find_secret(tree: Any, key: str = "") -> str | None:
    """The dotted key of the first secret in a tree of mappings, lists and scalars, or None.

    >>> find_secret({"reward": {"options": {"api_key": "x"}}})
    'reward.options.api_key'
    """
    if isinstance(tree, str):
        return key if _SHAPES.search(tree) else None
    if isinstance(tree, Mapping):
        for name, value in tree.items():
            inner = f"{key}.{name}" if key else str(name)
            if isinstance(value, str) and value and _NAMED.fullmatch(str(name)):
                return inner
            if (secret := find_secret(value, inner)) is not None:
                return secret
    elif isinstance(tree, Sequence):
        keys = (find_secret(value, f"{key}.{number}") for number, value in enumerate(tree))
        return next((secret for secret in keys if secret is not None), None)
    return None


def masked(text: str) -> str:
    """`text` with every secret replaced by `***`.

    >>> masked("reward.options.api_key=abc model.path=https://me:pw@host/x")
    'reward.options.api_key=*** model.path=https://***@host/x'
    """
    return _ASSIGNED.sub(rf"\1\2{MASK}", _SHAPES.sub(MASK, text))
