"""How much of a prompt a text encoder reads, and which prompts are longer."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from stepcredit.errors import shortened

MAX_PROMPTS = 20_000
"""Number of prompts of a list whose tokens are counted."""

_SHOWN = 60
"""Characters of a prompt in a message."""


@dataclass(frozen=True)
class TextLimit:
    """The part of a prompt that a text encoder reads.

    Attributes:
        name: name of the tokenizer in messages.
        tokens: number of tokens that the encoder reads, with special tokens.
        count: the number of tokens of each prompt, with special tokens and without truncation.
    """

    name: str
    tokens: int
    count: Callable[[Sequence[str]], list[int]]

    def cut(self, prompts: Sequence[str]) -> dict[str, int]:
        """The prompts that are longer than the limit, in their order, with their numbers of tokens."""
        # Every token of a prompt stands for at least one byte, and a few tokens are special.
        candidates = [prompt for prompt in dict.fromkeys(prompts) if len(prompt.encode()) + 4 > self.tokens]
        counts = self.count(candidates) if candidates else []
        return {prompt: count for prompt, count in zip(candidates, counts, strict=True) if count > self.tokens}

    def end(self, prompt: str) -> int:
        """Where the part of a long prompt that is not read begins: the position of a word, or within a single word."""
        starts = [match.start() for match in re.finditer(r"\S+", prompt)][1:] or list(range(1, len(prompt)))
        place = bisect_right(starts, self.tokens, key=lambda start: self.count([prompt[:start].rstrip()])[0])
        return starts[place - 1] if place else 0


def describe_cuts(reader: str, limits: Sequence[TextLimit], prompts: Sequence[str]) -> str | None:
    """One line about the prompts of which an encoder ignores the end; None if there are none.

    Args:
        reader: whose encoders they are, such as `StableDiffusionPipeline`.
    """
    unique = list(dict.fromkeys(prompts))
    counted = unique[:MAX_PROMPTS]
    by_name = {limit.name: limit for limit in limits}
    cuts = {(limit.name, limit.tokens): limit.cut(counted) for limit in limits}
    if not any(cuts.values()):
        return None
    of = f"of {len(counted)}" if counted == unique else f"of the first {len(counted)}"
    parts = []
    for (name, tokens), cut in cuts.items():
        part = f"{name} reads {tokens} tokens and cuts {len(cut) or 'none'}"
        if cut:
            first, count = next(iter(cut.items()))
            part += f" {of} prompts, first {shortened(first, _SHOWN)!r} with {count} tokens"
            part += f", from {shortened(first[by_name[name].end(first) :], _SHOWN)!r} on"
        parts.append(part)
    listed = "; ".join(parts)
    return f"note: {reader} ignores the end of long prompts: {listed}; shorten them, or put what matters first"
