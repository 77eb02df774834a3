"""Tags of prompts, such as the task that a prompt tests. Rewards are also reported per tag."""

from __future__ import annotations

from collections.abc import Sequence

from stepcredit.types import Prompt

TAG = "tag"
"""The key of a prompt's metadata that holds its tag."""


def tag_of(prompt: Prompt) -> str | None:
    """The tag of a prompt; None if its metadata has none, or one that is not a string or is blank.

    Halves of surrogate pairs, which no file can hold, are escaped.
    """
    tag = prompt.metadata.get(TAG)
    return tag.encode(errors="backslashreplace").decode() if isinstance(tag, str) and tag.strip() else None


def rows_by_tag(prompts: Sequence[Prompt]) -> dict[str, list[int]]:
    """The positions of the prompts of each tag, the tags in the order in which they first appear.

    Prompts without a tag are left out.

    >>> rows_by_tag([Prompt("two cats", {"tag": "counting"}), Prompt("a cat"), Prompt("two dogs", {"tag": "counting"})])
    {'counting': [0, 2]}
    """
    rows: dict[str, list[int]] = {}
    for row, prompt in enumerate(prompts):
        if (tag := tag_of(prompt)) is not None:
            rows.setdefault(tag, []).append(row)
    return rows
