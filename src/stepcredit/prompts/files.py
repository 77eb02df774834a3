"""Prompt files of the user's.

A `.txt` file has one prompt per line. A `.jsonl` file has per line an object with a string `prompt`, whose other keys
become the prompt's metadata, or just a string. Both are UTF-8; blank lines are skipped. A prompt is at most 20,000
characters of Unicode without NUL: no text encoder reads more than a few hundred.
"""

from __future__ import annotations

import json
from pathlib import Path

from stepcredit.errors import InputError, shortened
from stepcredit.types import Prompt

SUFFIXES = (".txt", ".jsonl")
LONGEST = 20_000
"""Characters of a prompt."""


def read_prompt_file(path: str | Path) -> list[Prompt]:
    """The prompts of a `.txt` or `.jsonl` file, in order; at least one.

    Raises:
        InputError: the file cannot be read, is not UTF-8, holds no prompt, or has a malformed line (with its number).
    """
    path = Path(path)
    parse = _parse_json if path.suffix == ".jsonl" else _parse_text
    numbered = enumerate(_read(path).split("\n"), start=1)
    prompts = [parse(line.strip(), f"{path} line {number}") for number, line in numbered if line.strip()]
    if not prompts:
        raise InputError(f"{path} holds no prompts: write one per line")
    return prompts


def prompt_text(text: str, where: str) -> str:
    """`text` as it is; InputError that begins with `where` if it cannot be a prompt."""
    if len(text) > LONGEST:
        raise InputError(f"{where}: the prompt has {len(text)} characters, expected at most {LONGEST}")
    if "\0" in text:
        raise InputError(f"{where}: the prompt holds NUL characters: is it UTF-8 text?")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{where}: character {error.start + 1} of the prompt is half a surrogate pair") from error
    return text


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text (byte {error.start}): save it as UTF-8") from error
    except FileNotFoundError as error:
        raise InputError(f"no prompt file {path}") from error
    except OSError as error:
        raise InputError(f"cannot read prompt file {path}: {error.strerror}") from error
    except ValueError as error:
        raise InputError(f"{str(path)!r} is no name of a file") from error


def _parse_text(line: str, where: str) -> Prompt:
    return Prompt(prompt_text(line, where))


def _parse_json(line: str, where: str) -> Prompt:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where} is not JSON: {error}") from error
    fields = {"prompt": value} if isinstance(value, str) else value
    if not isinstance(fields, dict):
        raise InputError(f"{where} is a JSON {_kind(value)}, expected an object with `prompt`, or a string")
    if "prompt" not in fields:
        raise InputError(f"{where} has no key `prompt`; its keys: {shortened(', '.join(fields)) or 'none'}")
    text = fields.pop("prompt")
    if not isinstance(text, str) or not text.strip():
        raise InputError(f"{where}: `prompt` is {shortened(repr(text))}, expected a string that is not blank")
    return Prompt(prompt_text(text, where), fields)


def _kind(value: object) -> str:
    names = {list: "array", bool: "boolean", type(None): "null"}
    return names.get(type(value), "number")
