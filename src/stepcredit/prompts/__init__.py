"""Prompts: where they come from, and which of them an epoch is trained on."""

from stepcredit.errors import InputError, unknown
from stepcredit.prompts.bundled import BUNDLED, read_bundled
from stepcredit.prompts.draw import draw_prompts
from stepcredit.prompts.files import SUFFIXES, prompt_text, read_prompt_file
from stepcredit.types import Prompt

__all__ = ["draw_prompts", "load_prompts", "prompt_names", "prompt_text"]


def prompt_names() -> dict[str, str]:
    """The bundled prompt lists, each with a line about it."""
    return dict(BUNDLED)


def load_prompts(source: str) -> list[Prompt]:
    """The prompts of a bundled list, or of a .txt or .jsonl file (see `prompts.files`), in their order; at least one.

    Raises:
        InputError: no such list (the nearest one is named) or file, or a file that holds no prompts or is malformed.
    """
    if source in BUNDLED:
        return [Prompt(text) for text in read_bundled(source)]
    if source.endswith(SUFFIXES):
        return read_prompt_file(source)
    raise InputError(f"{unknown('prompt list', source, BUNDLED)}, or the path of a .txt or .jsonl file")
