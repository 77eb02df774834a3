"""Prompt files with one prompt per line."""

from __future__ import annotations

from collections.abc import Iterator

from stepcredit.prompts import register_prompts
from stepcredit.prompts._lines import numbered_lines
from stepcredit.prompts._rows import to_prompt
from stepcredit.types import Prompt


@register_prompts(".txt")
def read_text(path: str) -> Iterator[Prompt]:
    """A UTF-8 file with a prompt per line; blank lines are skipped.

    Raises:
        InputError: a line that cannot be a prompt, with its number.
    """
    for number, line in numbered_lines(path):
        yield to_prompt(line, f"{path} line {number}")
