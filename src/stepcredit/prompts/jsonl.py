"""Prompt files with one JSON value per line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from stepcredit.errors import InputError
from stepcredit.prompts import register_prompts
from stepcredit.prompts._lines import numbered_lines
from stepcredit.prompts._rows import to_prompt
from stepcredit.types import Prompt


@register_prompts(".jsonl")
def read_jsonl(path: str) -> Iterator[Prompt]:
    """A UTF-8 file with one JSON object or string per line. The keys of an object other than `prompt` are metadata.

    Blank lines are skipped.

    Raises:
        InputError: a line that is not JSON or holds no prompt, with its number.
    """
    for number, line in numbered_lines(path):
        where = f"{path} line {number}"
        yield to_prompt(_parse(line, where), where)


def _parse(line: str, where: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where} is not JSON: {error}") from error
