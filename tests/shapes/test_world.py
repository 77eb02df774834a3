"""Scenes, captions, and the held-out split."""

from __future__ import annotations

from itertools import combinations, product

import numpy as np
import pytest

from stepcredit.shapes.world import (
    ATTRIBUTES,
    COLORS,
    OPTIONAL,
    Scene,
    caption,
    held_out_captions,
    is_held_out,
    parse,
    sample_caption,
    sample_scene,
)

MENTIONS = [frozenset(names) for size in range(4) for names in combinations(OPTIONAL, size)]


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    result = (Scene(*words) for words in product(*ATTRIBUTES.values()))
    return [scene for scene in result if scene.foreground != scene.background]


def test_parse_inverts_caption(scenes: list[Scene]) -> None:
    captions = set()
    for scene in scenes:
        for mention in MENTIONS:
            text = caption(scene, mention)
            named = {"shape", "foreground", "background", *mention}
            assert parse(text) == {name: getattr(scene, name) for name in ATTRIBUTES if name in named}
            captions.add(text)
    assert len(captions) == 4 * 8 * 7 * (2 + 1) * (3 + 1) * (5 + 1)


@pytest.mark.parametrize(
    "text", ["", "a cat", "a red circle", "a red circle on a red background", "A red circle on a blue background"]
)
def test_other_text_mentions_nothing(text: str) -> None:
    assert parse(text) == {}


def test_labels_are_word_indices(scenes: list[Scene]) -> None:
    scene = scenes[-1]
    assert {name: ATTRIBUTES[name][index] for name, index in scene.labels().items()} == vars(scene)


def test_a_tenth_of_the_captions_is_held_out(scenes: list[Scene]) -> None:
    captions = {caption(scene, mention) for scene in scenes for mention in MENTIONS}
    assert sum(map(is_held_out, captions)) / len(captions) == pytest.approx(0.1, abs=0.01)


def test_training_and_held_out_captions_are_disjoint() -> None:
    rng = np.random.default_rng(0)
    trained = {sample_caption(sample_scene(rng), rng, held_out=False) for _ in range(3000)}
    reserved = held_out_captions(512, seed=1)
    assert len(set(reserved)) == 512
    assert all(map(is_held_out, reserved)) and all(map(parse, reserved))
    assert not trained & set(reserved)
    assert held_out_captions(512, seed=1) == reserved != held_out_captions(512, seed=2)


def test_random_scenes_use_every_word() -> None:
    rng = np.random.default_rng(0)
    drawn = [sample_scene(rng) for _ in range(2000)]
    assert all(scene.foreground != scene.background for scene in drawn)
    for name, words in ATTRIBUTES.items():
        assert {getattr(scene, name) for scene in drawn} == set(words)
    pairs = {(scene.foreground, scene.background) for scene in drawn}
    assert len(pairs) == len(COLORS) * (len(COLORS) - 1)


def test_optional_words_have_probability_half() -> None:
    rng = np.random.default_rng(0)
    texts = [sample_caption(sample_scene(rng), rng, held_out=False) or "" for _ in range(2000)]
    for name in OPTIONAL:
        assert np.mean([name in parse(text) for text in texts]) == pytest.approx(0.5, abs=0.05)
