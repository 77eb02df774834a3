"""A CLIP tokenizer for the captions of the shapes world, built locally; any other text falls back to bytes."""

from __future__ import annotations

from tokenizers import pre_tokenizers
from transformers import CLIPTokenizer

from stepcredit.shapes.world import ATTRIBUTES, PLACES

MAX_LENGTH = 24
FLOW_MAX_LENGTH = 16


def build_tokenizer() -> CLIPTokenizer:
    """A CLIPTokenizer in which every word of the world but `striped` and `triangle` is one token.

    The vocabulary is the byte alphabet (with and without end-of-word mark), one token per prefix of every known word,
    and the two special tokens. Prefix merges make the byte-pair encoder rebuild each known word left to right, unless a
    merge of an earlier word breaks in: `ri`, of `right`, cuts those two into 5 and 7 pieces. The packaged weights read
    them so; the longest caption still fits MAX_LENGTH exactly.
    """
    return CLIPTokenizer(vocab=_vocabulary(), merges=_merges(_words()), model_max_length=MAX_LENGTH)


def build_flow_tokenizer() -> CLIPTokenizer:
    """The same vocabulary with the merges of `right` last, so that every word of the world is one token.

    The longest caption takes 14 tokens, with both special ones, of FLOW_MAX_LENGTH.
    """
    words = sorted(_words(), key=lambda word: word == "right")
    return CLIPTokenizer(vocab=_vocabulary(), merges=_merges(words), model_max_length=FLOW_MAX_LENGTH)


def _vocabulary() -> dict[str, int]:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    joined = [left + right for left, right in _merges(_words())]
    tokens = [*alphabet, *(letter + "</w>" for letter in alphabet), *joined, "<|startoftext|>", "<|endoftext|>"]
    return {token: index for index, token in enumerate(tokens)}


def _merges(words: list[str]) -> list[tuple[str, str]]:
    """One merge per prefix of each word, in the order of `words`."""
    merges: dict[tuple[str, str], None] = {}
    for word in words:
        left = word[0]
        for position, letter in enumerate(word[1:], start=1):
            right = letter + ("</w>" if position == len(word) - 1 else "")
            merges[left, right] = None
            left += right
    return list(merges)


def _words() -> list[str]:
    words = {"a", "on", "background"}
    words.update(word for options in ATTRIBUTES.values() for word in options)
    words.update(word for place in PLACES.values() for word in place.split())
    return sorted(word for word in words if len(word) > 1)
