"""A CLIP tokenizer for the captions of the shapes world, built locally; any other text falls back to bytes."""

from __future__ import annotations

from tokenizers import pre_tokenizers
from transformers import CLIPTokenizer

from stepcredit.embedded.world import ATTRIBUTES, PLACES

MAX_LENGTH = 24


def build_tokenizer() -> CLIPTokenizer:
    """A CLIPTokenizer in which every word of the world but `striped` and `triangle` is one token.

    The vocabulary is the byte alphabet (with and without end-of-word mark), one token per prefix of every known word,
    and the two special tokens. Prefix merges make the byte-pair encoder rebuild each known word left to right, unless a
    merge of an earlier word breaks in: `ri`, of `right`, cuts those two into 5 and 7 pieces. The packaged weights read
    them so; the longest caption still fits MAX_LENGTH exactly.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*alphabet, *(letter + "</w>" for letter in alphabet)]
    merges: list[tuple[str, str]] = []
    for word in _words():
        left = word[0]
        for position, letter in enumerate(word[1:], start=1):
            right = letter + ("</w>" if position == len(word) - 1 else "")
            if (left, right) not in merges:
                merges.append((left, right))
                tokens.append(left + right)
            left += right
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=MAX_LENGTH)


def _words() -> list[str]:
    words = {"a", "on", "background"}
    words.update(word for options in ATTRIBUTES.values() for word in options)
    words.update(word for place in PLACES.values() for word in place.split())
    return sorted(word for word in words if len(word) > 1)
