"""The code blocks of a documentation page.

An HTML comment directly above a block changes what the test does with it:

- `<!-- file: NAME -->` saves the block as a file for later blocks.
- `<!-- not run: REASON -->` skips the block.

A Python or YAML block whose first line is a comment with a file name, such as `# my_rewards.py`, is saved as well.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_FENCE = re.compile(
    r"^(?:<!-- (?P<rule>file|not run): (?P<value>.+?) -->\n)?```(?P<language>\w+)\n(?P<text>.*?)^```$", re.M | re.S
)
_FILE_NAME = re.compile(r"# ([\w-]+\.(?:py|yaml))\n")


@dataclass(frozen=True)
class Block:
    """One fenced block.

    Attributes:
        line: number of the first line of its text in the page.
        file: the name to save it under, or None.
        skip: why it is not run, or None.
    """

    language: str
    text: str
    line: int
    file: str | None
    skip: str | None


def blocks(page: Path) -> list[Block]:
    """All fenced blocks of a page, in order."""
    content = page.read_text(encoding="utf-8")
    return [_block(match, content) for match in _FENCE.finditer(content)]


def _block(match: re.Match[str], content: str) -> Block:
    text, rule, value = match["text"], match["rule"], match["value"]
    named = _FILE_NAME.match(text)
    return Block(
        language=match["language"],
        text=text,
        line=content[: match.start("text")].count("\n") + 1,
        file=value if rule == "file" else named[1] if named else None,
        skip=value if rule == "not run" else None,
    )


def commands(text: str) -> Iterator[list[str]]:
    """The arguments of every command in a shell block, without comments and line continuations."""
    for line in text.replace("\\\n", " ").splitlines():
        for command in line.split("&&"):
            if words := shlex.split(command, comments=True):
                yield words
