"""Captions of the composition world: grammar, tasks and splits."""

from __future__ import annotations

import numpy as np
import pytest

from stepcredit.errors import InputError
from stepcredit.shapes.composition.captions import (
    SPLITS,
    Split,
    captions,
    distinct_captions,
    is_caption,
    parse,
    sample_caption,
    split_of,
)
from stepcredit.shapes.composition.claims import (
    MAX_COUNT,
    TASKS,
    UNSEEN_COLORS,
    UNSEEN_SHAPES,
    Claim,
    Named,
    all_claims,
    has_unseen_pair,
)

CLAIMS = [claim for task in TASKS for claim in all_claims(task)]


@pytest.mark.parametrize(
    ("text", "claim"),
    [
        ("a circle", Claim("single_object", (Named("circle"),))),
        ("there is a cross and a square", Claim("two_objects", (Named("cross"), Named("square")))),
        ("there are three triangles", Claim("counting", (Named("triangle"),) * 3)),
        ("a picture of a cyan square", Claim("colors", (Named("square", "cyan"),))),
        ("a circle to the left of a cross", Claim("position", (Named("circle"), Named("cross")), "left of")),
        ("a circle over a cross", Claim("position", (Named("circle"), Named("cross")), "above")),
        (
            "a red circle and a blue cross",
            Claim("color_attribution", (Named("circle", "red"), Named("cross", "blue"))),
        ),
    ],
)
def test_a_caption_is_read(text: str, claim: Claim) -> None:
    assert parse(text) == claim


def test_every_claim_has_captions_that_are_read_as_it_and_no_others() -> None:
    texts = [text for claim in CLAIMS for text in captions(claim)]
    assert len(set(texts)) == len(texts) == len({*texts})
    assert all(parse(text) == claim for claim in CLAIMS for text in captions(claim))


@pytest.mark.parametrize("task", TASKS)
def test_claims_of_a_task(task: str) -> None:
    claims = list(all_claims(task))
    assert len(set(claims)) == len(claims) > 0
    for claim in claims:
        shapes = [named.shape for named in claim.objects]
        assert claim.task == task and 1 <= len(shapes) <= MAX_COUNT
        assert (claim.relation is not None) == (task == "position")
        assert (len(set(shapes)) == 1) if task == "counting" else len(set(shapes)) == len(shapes)
        assert all((named.color is not None) == (task in ("colors", "color_attribution")) for named in claim.objects)


@pytest.mark.parametrize(
    "text", ["", "a cat", "A circle", "a circle and a circle", "five circles", "two circle", "a red"]
)
def test_other_text_is_refused_with_the_grammar(text: str) -> None:
    assert not is_caption(text)
    with pytest.raises(InputError, match=r"red.green.*circle.square") as raised:
        parse(text)
    assert repr(text) in str(raised.value) and "\n" not in str(raised.value)


def test_the_splits_share_no_caption_and_two_tasks_no_claim() -> None:
    claims: dict[Split, set[Claim]] = {split: set() for split in SPLITS}
    for claim in CLAIMS:
        for text in captions(claim):
            claims[split_of(text)].add(claim)
    assert all(map(has_unseen_pair, claims["unseen_pairs"]))
    assert not any(map(has_unseen_pair, claims["training"] | claims["held_out"]))
    shared = claims["training"] & claims["held_out"]
    assert shared and not {claim.task for claim in shared} & {"position", "color_attribution"}
    for split in ("training", "held_out"):
        assert {claim.task for claim in claims[split]} == set(TASKS)
    held_out = sum(split_of(text) == "held_out" for claim in CLAIMS for text in captions(claim))
    rest = sum(split_of(text) == "training" for claim in CLAIMS for text in captions(claim))
    assert held_out / (held_out + rest) == pytest.approx(1 / 6, abs=0.04)


def test_no_training_caption_names_an_unseen_pair() -> None:
    training = [claim for claim in CLAIMS if any(split_of(text) == "training" for text in captions(claim))]
    named = {(each.shape, each.color) for claim in training for each in claim.objects}
    assert not named & set(UNSEEN_COLORS)
    placed = {tuple(sorted(each.shape for each in claim.objects)) for claim in training if claim.relation}
    assert not placed & set(UNSEEN_SHAPES)


@pytest.mark.parametrize("split", SPLITS)
def test_random_captions(split: Split) -> None:
    rng, again = np.random.default_rng(0), np.random.default_rng(0)
    texts = [sample_caption(rng, split) for _ in range(200)]
    assert texts == [sample_caption(again, split) for _ in range(200)]
    assert {split_of(text) for text in texts} == {split}
    task = parse(texts[0]).task
    assert {parse(sample_caption(rng, split, task)).task for _ in range(20)} == {task}


def test_a_set_without_captions_of_a_task() -> None:
    with pytest.raises(ValueError, match="counting"):
        sample_caption(np.random.default_rng(0), "unseen_pairs", "counting")


def test_distinct_captions_take_the_tasks_in_turn() -> None:
    texts = distinct_captions(60, "training", seed=3)
    assert len(set(texts)) == 60 and texts == distinct_captions(60, "training", seed=3)
    assert {parse(text).task for text in texts[:6]} == set(TASKS)
    with pytest.raises(ValueError, match="asked for"):
        distinct_captions(10_000, "held_out", seed=0)
