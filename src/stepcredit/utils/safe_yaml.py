"""YAML as JSON knows it: null, booleans, numbers, texts, lists, and mappings from texts. Nothing else, nothing huge.

A few lines of YAML can stand for gigabytes (aliases of aliases), for a structure without end (an alias of itself), and
for dates, bytes and sets, which config.yaml would not read back as they were.
"""

from __future__ import annotations

from typing import Any

import yaml

MOST_VALUES, DEEPEST, LARGEST_NUMBER = 10_000, 20, 2**63


def load_plain(text: str) -> Any:
    """The value of a YAML text.

    Raises:
        ValueError: one line that says why, for what is no YAML, or holds more than 10,000 values (an alias counts each
            time it stands), more than 20 levels, a whole number beyond 64 bits, a text that is not Unicode, or
            something that JSON does not know.
    """
    try:
        value = yaml.safe_load(text)
        _require_plain(value)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except Exception as error:  # PyYAML lets through whatever its constructors raise
        raise ValueError(" ".join(str(error).split())) from error
    return value


def _require_plain(value: Any) -> None:
    left = MOST_VALUES
    waiting = [(value, 0)]
    while waiting:
        node, depth = waiting.pop()
        left -= 1
        if left < 0:
            raise ValueError(f"it holds more than {MOST_VALUES} values")
        if depth > DEEPEST:
            raise ValueError(f"it has more than {DEEPEST} levels")
        if isinstance(node, dict):
            for key in node:
                if not isinstance(key, str):
                    raise ValueError(f"the key {key!r} is a {type(key).__name__}: quote it to make it a text")
            waiting += [(inner, depth + 1) for pair in node.items() for inner in pair]
        elif isinstance(node, list):
            waiting += [(inner, depth + 1) for inner in node]
        else:
            _require_scalar(node)


def _require_scalar(value: Any) -> None:
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise ValueError("a text in it is not Unicode") from None
    elif isinstance(value, int):
        if abs(value) >= LARGEST_NUMBER:
            raise ValueError("a whole number in it has more than 64 bits")
    elif not (value is None or isinstance(value, float)):
        raise ValueError(f"it holds a {type(value).__name__}: quote it to make it a text")
