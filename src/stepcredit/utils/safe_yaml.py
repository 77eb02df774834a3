"""Read YAML that config.yaml can hold: null, booleans, numbers, strings, lists, and mappings with string keys."""

from __future__ import annotations

import json
from typing import Any

import yaml

_MAX_ALIASES = 30  # a few more, each repeating the one before several times, would expand to gigabytes
_MAX_INTEGER = 2**63


def load_plain(text: str) -> Any:
    """The value of a YAML text.

    Raises:
        ValueError: it is not valid YAML, or holds something that JSON does not have, such as a date. One line.
    """
    try:
        if sum(isinstance(token, yaml.AliasToken) for token in yaml.scan(text)) > _MAX_ALIASES:
            raise ValueError(f"it has more than {_MAX_ALIASES} aliases")
        value = yaml.safe_load(text)
        written = json.dumps(value, ensure_ascii=False)
        written.encode()
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except Exception as error:  # constructors of PyYAML raise errors of many types
        raise ValueError(" ".join(str(error).split())) from error
    if repr(json.loads(written, parse_int=_integer)) != repr(value):
        raise ValueError("the keys of a mapping must be strings: put them in quotes")
    return value


def _integer(digits: str) -> int:
    if abs(int(digits)) >= _MAX_INTEGER:
        raise ValueError("an integer in it has more than 64 bits")
    return int(digits)
