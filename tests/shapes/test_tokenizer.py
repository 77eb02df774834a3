"""Tokenizers of the shapes world."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest
from transformers import CLIPTokenizer

from stepcredit.shapes.composition.captions import captions as composition_captions
from stepcredit.shapes.composition.claims import TASKS, all_claims
from stepcredit.shapes.tokenizer import (
    COMPOSITION_MAX_LENGTH,
    FLOW_MAX_LENGTH,
    MAX_LENGTH,
    build_composition_tokenizer,
    build_flow_tokenizer,
    build_tokenizer,
)
from stepcredit.shapes.world import ATTRIBUTES, OPTIONAL, Scene, caption


@pytest.fixture(scope="module")
def tokenizer() -> CLIPTokenizer:
    return build_tokenizer()


def captions() -> list[str]:
    """All captions that mention every attribute, and the shortest ones."""
    scenes = [Scene(*words) for words in product(*ATTRIBUTES.values())]
    texts = {caption(scene, mention) for scene in scenes for mention in (set(OPTIONAL), set())}
    return sorted(texts)


def test_captions_fit_and_are_distinct(tokenizer: CLIPTokenizer) -> None:
    texts = captions()
    ids = tokenizer(texts).input_ids
    assert max(map(len, ids)) <= MAX_LENGTH
    assert len({tuple(row) for row in ids}) == len(texts)


def test_all_words_but_two_are_single_tokens(tokenizer: CLIPTokenizer) -> None:
    words = {word for text in captions() for word in text.split()}
    pieces = {word: len(tokenizer.tokenize(word)) for word in words}
    assert {word: count for word, count in pieces.items() if count > 1} == {"striped": 5, "triangle": 7}


def test_decoding_returns_the_caption(tokenizer: CLIPTokenizer) -> None:
    text = "a small red circle on a blue background at the top"
    assert tokenizer.decode(tokenizer(text).input_ids, skip_special_tokens=True).strip() == text


@pytest.mark.parametrize("text", ["", "a photo of a cat, 4k!", "naïve 猫 🎨", "x" * 500, "  red\n\tcircle "])
def test_other_text_is_truncated(tokenizer: CLIPTokenizer, text: str) -> None:
    ids = tokenizer(text, padding="max_length", truncation=True).input_ids
    assert len(ids) == MAX_LENGTH
    assert ids[0] == tokenizer.bos_token_id and tokenizer.eos_token_id in ids
    assert max(ids) < len(tokenizer)


def test_save_and_load(tokenizer: CLIPTokenizer, tmp_path: Path) -> None:
    tokenizer.save_pretrained(tmp_path)
    back = CLIPTokenizer.from_pretrained(tmp_path)
    texts = captions()[::500]
    assert back(texts).input_ids == tokenizer(texts).input_ids
    assert back.model_max_length == MAX_LENGTH


def test_flow_tokenizer_has_single_token_words(tokenizer: CLIPTokenizer) -> None:
    flow, texts = build_flow_tokenizer(), captions()
    assert flow.get_vocab() == tokenizer.get_vocab()
    assert {len(flow.tokenize(word)) for text in texts for word in text.split()} == {1}
    ids = flow(texts).input_ids
    assert max(map(len, ids)) == 14 and flow.model_max_length == FLOW_MAX_LENGTH == 16
    assert len({tuple(row) for row in ids}) == len(texts)
    assert len(flow("x" * 500, padding="max_length", truncation=True).input_ids) == 16


def test_composition_tokenizer_has_single_token_words() -> None:
    texts = [text for task in TASKS for claim in all_claims(task) for text in composition_captions(claim)]
    tokenizer = build_composition_tokenizer()
    ids = tokenizer(texts).input_ids
    assert all(len(row) == len(text.split()) + 2 for row, text in zip(ids, texts, strict=True))
    assert max(map(len, ids)) == 13 and tokenizer.model_max_length == COMPOSITION_MAX_LENGTH == 16
    assert len({tuple(row) for row in ids}) == len(texts)
