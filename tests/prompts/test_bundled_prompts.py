"""The bundled lists. Those of the shapes world and the composition world are generated here again and compared.

`python tests/prompts/test_bundled_prompts.py` rewrites them.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import stepcredit.prompts
from stepcredit.prompts import load_prompts, prompt_names
from stepcredit.prompts.bundled import DESCRIPTIONS
from stepcredit.prompts.tags import tag_of
from stepcredit.shapes.composition.captions import Split, distinct_captions, split_of
from stepcredit.shapes.composition.captions import parse as parse_composition
from stepcredit.shapes.composition.claims import TASKS
from stepcredit.shapes.world import ATTRIBUTES, COLORS, Scene, held_out_captions, is_held_out, parse, sample_caption

DATA = Path(stepcredit.prompts.__file__).parent / "data"
COUNT = 64
SHAPES = ATTRIBUTES["shape"]


def training_captions() -> list[str]:
    """64 training captions. Each block of 8 has every shape twice, and every color once on either side."""
    rng = np.random.default_rng(0)
    captions: dict[str, None] = {}
    while len(captions) < COUNT:
        block = [_caption(*words, rng) for words in _colors_and_shapes(rng)]
        if not captions.keys() & block:
            captions.update(dict.fromkeys(block))
    return list(captions)


def _colors_and_shapes(rng: np.random.Generator) -> list[tuple[str, str, str]]:
    foregrounds = rng.permutation(COLORS)
    backgrounds = np.roll(foregrounds, rng.integers(1, len(COLORS)))
    return [(SHAPES[row % len(SHAPES)], str(foregrounds[row]), str(backgrounds[row])) for row in range(len(COLORS))]


def _caption(shape: str, foreground: str, background: str, rng: np.random.Generator) -> str:
    size, texture, position = (str(rng.choice(ATTRIBUTES[name])) for name in ("size", "texture", "position"))
    caption = sample_caption(Scene(shape, foreground, background, size, texture, position), rng, held_out=False)
    assert caption is not None
    return caption


SHAPES_LISTS = {"shapes": training_captions(), "shapes-held-out": held_out_captions(COUNT, seed=0)}


COMPOSITION_LISTS: dict[str, tuple[Split, int]] = {
    "composition": ("training", 120),
    "composition-held-out": ("held_out", 96),
    "composition-unseen-pairs": ("unseen_pairs", 96),
}


def texts(name: str) -> list[str]:
    return [prompt.text for prompt in load_prompts(name)]


def test_every_bundled_list_has_a_file() -> None:
    assert {path.stem for path in DATA.iterdir()} == set(DESCRIPTIONS) <= set(prompt_names())


@pytest.mark.parametrize("name", prompt_names())
def test_every_list_has_a_description(name: str) -> None:
    assert prompt_names()[name].strip()


@pytest.mark.parametrize("name", DESCRIPTIONS)
def test_prompts_are_distinct_and_without_extra_white_space(name: str) -> None:
    prompts = load_prompts(name)
    assert len({prompt.text for prompt in prompts}) == len(prompts)
    assert all(prompt.text == " ".join(prompt.text.split()) != "" for prompt in prompts)
    assert all(prompt.metadata.keys() <= {"tag"} for prompt in prompts)


@pytest.mark.parametrize(("name", "expected"), SHAPES_LISTS.items())
def test_the_shapes_lists_can_be_generated_again(name: str, expected: list[str]) -> None:
    assert texts(name) == expected


@pytest.mark.parametrize("name", COMPOSITION_LISTS)
def test_the_composition_lists_can_be_generated_again(name: str) -> None:
    split, count = COMPOSITION_LISTS[name]
    captions = texts(name)
    assert captions == distinct_captions(count, split, seed=0)
    assert {split_of(text) for text in captions} == {split}


@pytest.mark.parametrize("name", COMPOSITION_LISTS)
def test_the_tags_of_the_composition_lists_are_their_tasks(name: str) -> None:
    prompts = load_prompts(name)
    assert [tag_of(prompt) for prompt in prompts] == [parse_composition(prompt.text).task for prompt in prompts]
    assert name == "composition-unseen-pairs" or {tag_of(prompt) for prompt in prompts} == set(TASKS)


@pytest.mark.parametrize(("name", "held_out"), [("shapes", False), ("shapes-held-out", True)])
def test_the_shapes_lists_respect_the_held_out_split(name: str, held_out: bool) -> None:
    captions = texts(name)
    assert len(captions) == COUNT
    assert all({"shape", "foreground", "background"} <= parse(text).keys() for text in captions)
    assert all(is_held_out(text) == held_out for text in captions)


@pytest.mark.parametrize("start", range(0, COUNT, 8))
def test_every_8_training_captions_cover_shapes_and_colors(start: int) -> None:
    scenes = [parse(text) for text in texts("shapes")[start : start + 8]]
    assert sorted(scene["shape"] for scene in scenes) == sorted(2 * SHAPES)
    assert {scene["foreground"] for scene in scenes} == {scene["background"] for scene in scenes} == set(COLORS)


def test_the_training_captions_mention_every_optional_word() -> None:
    words = {word for text in texts("shapes") for word in parse(text).values()}
    assert words == {word for options in ATTRIBUTES.values() for word in options}


def test_the_animals() -> None:
    trained, held_out = texts("animals"), texts("animals-held-out")
    assert (len(trained), len(held_out)) == (45, 8)
    assert (trained[0], trained[-1], held_out[0], held_out[-1]) == ("cat", "kangaroo", "snail", "jellyfish")
    assert not set(trained) & set(held_out)
    assert all(name.isalpha() and name.islower() for name in trained + held_out)


if __name__ == "__main__":
    for list_name, captions in SHAPES_LISTS.items():
        (DATA / f"{list_name}.txt").write_text("\n".join(captions) + "\n")
    for list_name, (of_split, number) in COMPOSITION_LISTS.items():
        rows = [
            {"tag": parse_composition(text).task, "prompt": text}
            for text in distinct_captions(number, of_split, seed=0)
        ]
        (DATA / f"{list_name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
