"""From strings and dicts to prompts: the checks that every prompt passes, wherever it comes from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stepcredit.errors import InputError, shortened, unknown
from stepcredit.types import Prompt

MAX_CHARACTERS = 20_000
"""Of one prompt. No text encoder reads more than a few hundred tokens."""


def to_prompt(row: Any, where: str, column: str = "prompt") -> Prompt:
    """The prompt that `row` holds.

    Args:
        row: a string, a Prompt, or a mapping with the prompt under `column`; its other keys become metadata.
        where: what errors call the row, such as `prompts.jsonl line 3`.
        column: key of the prompt.

    Raises:
        InputError: another type, no such key, or as in `prompt_text`.
    """
    if isinstance(row, Prompt):
        return Prompt(prompt_text(row.text, where), row.metadata)
    if not isinstance(row, Mapping):
        return Prompt(prompt_text(row, where))
    if column not in row:
        raise InputError(f"{where}: {unknown('key', column, map(str, row))}")
    return Prompt(prompt_text(row[column], where), {key: value for key, value in row.items() if key != column})


def prompt_text(text: Any, where: str) -> str:
    """`text` unchanged.

    Raises:
        InputError: `text` is not a string, is blank, has more than MAX_CHARACTERS characters, a NUL character or half a
            surrogate pair. The message begins with `where`.
    """
    if not isinstance(text, str):
        kind = type(text).__name__
        raise InputError(f"{where}: the prompt is {shortened(repr(text))} of type {kind}, expected a string or a dict")
    if not text.strip():
        raise InputError(f"{where}: the prompt is blank ({shortened(repr(text))})")
    if len(text) > MAX_CHARACTERS:
        raise InputError(f"{where}: the prompt has {len(text)} characters, expected at most {MAX_CHARACTERS}")
    if "\0" in text:
        raise InputError(f"{where}: the prompt holds NUL characters: is it UTF-8 text?")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{where}: character {error.start + 1} of the prompt is half a surrogate pair") from error
    return text
