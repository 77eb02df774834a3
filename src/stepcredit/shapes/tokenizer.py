"""A CLIP tokenizer for the captions of the shapes world, built locally. It encodes any other text as bytes."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import pre_tokenizers
from transformers import CLIPTokenizer

from stepcredit.shapes.composition.captions import captions
from stepcredit.shapes.composition.claims import TASKS, all_claims
from stepcredit.shapes.world import ATTRIBUTES, PLACES

MAX_LENGTH = 24
FLOW_MAX_LENGTH = 16
COMPOSITION_MAX_LENGTH = 16


def build_tokenizer() -> CLIPTokenizer:
    """A CLIPTokenizer in which every word of the world but `striped` and `triangle` is one token.

    The vocabulary holds the byte alphabet (with and without the end-of-word mark), one token for each prefix of each
    known word, and the two special tokens. The byte-pair encoder merges prefixes from left to right. The merge `ri` of
    `right` has a higher rank, so it splits `striped` and `triangle` into 5 and 7 tokens. The bundled weights were
    trained with these tokens, and the longest caption still fits into MAX_LENGTH.
    """
    words = _words()
    return CLIPTokenizer(vocab=_vocabulary(words), merges=_merges(words), model_max_length=MAX_LENGTH)


def build_flow_tokenizer() -> CLIPTokenizer:
    """A tokenizer with the same vocabulary in which every word of the world is one token: `right` is merged last.

    The longest caption has 14 tokens, including both special tokens.
    """
    words = _words()
    merges = _merges(sorted(words, key=lambda word: word == "right"))
    return CLIPTokenizer(vocab=_vocabulary(words), merges=merges, model_max_length=FLOW_MAX_LENGTH)


def build_composition_tokenizer() -> CLIPTokenizer:
    """A tokenizer in which every word of the composition world is one token; the longest caption has 13."""
    words = {word for task in TASKS for claim in all_claims(task) for text in captions(claim) for word in text.split()}
    ordered = sorted((word for word in words if len(word) > 1), key=lambda word: (-len(word), word))
    return CLIPTokenizer(vocab=_vocabulary(ordered), merges=_merges(ordered), model_max_length=COMPOSITION_MAX_LENGTH)


def _vocabulary(words: Sequence[str]) -> dict[str, int]:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    joined = [left + right for left, right in _merges(words)]
    tokens = [*alphabet, *(letter + "</w>" for letter in alphabet), *joined, "<|startoftext|>", "<|endoftext|>"]
    return {token: index for index, token in enumerate(tokens)}


def _merges(words: Sequence[str]) -> list[tuple[str, str]]:
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
