"""The prompts of an epoch depend only on the configuration, the seed and the epoch."""

from __future__ import annotations

from collections import Counter
from math import ceil
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stepcredit.config import PromptOrder
from stepcredit.errors import InputError
from stepcredit.prompts import draw_prompts
from stepcredit.prompts.draw import describe_draw, seen_prompts
from stepcredit.types import Prompt

SOURCE = [Prompt(name, {"row": row}) for row, name in enumerate("abcdefgh")]


def draw(**changes: Any) -> str:
    """The drawn texts, one letter each."""
    arguments = {"epoch": 0, "seed": 0, "count": None, "order": "fixed", "images_per_prompt": 1, **changes}
    return "".join(prompt.text for prompt in draw_prompts(SOURCE, **arguments))


@pytest.mark.parametrize("epoch", [0, 7])
def test_fixed_order_uses_the_first_prompts_in_every_epoch(epoch: int) -> None:
    assert draw(count=3, epoch=epoch, seed=epoch) == "abc"
    assert draw(count=8, epoch=epoch) == draw(count=None, epoch=epoch) == "abcdefgh"


@pytest.mark.parametrize("order", ["shuffled", "fixed", "random"])
def test_images_of_a_prompt_are_consecutive(order: PromptOrder) -> None:
    once, thrice = draw(count=4, order=order), draw(count=4, order=order, images_per_prompt=3)
    assert thrice == "".join(3 * text for text in once)


def test_prompts_keep_their_metadata() -> None:
    drawn = draw_prompts(SOURCE, epoch=0, seed=0, count=2, order="fixed", images_per_prompt=2)
    assert [prompt.metadata["row"] for prompt in drawn] == [0, 0, 1, 1]


@given(epoch=st.integers(0, 10**6), seed=st.integers(0, 2**40), count=st.integers(1, 30))
@settings(deadline=None, derandomize=True, max_examples=25)
def test_random_draws_are_reproducible(epoch: int, seed: int, count: int) -> None:
    drawn = draw(epoch=epoch, seed=seed, count=count, order="random")
    assert drawn == draw(epoch=epoch, seed=seed, count=count, order="random")
    assert len(drawn) == count and set(drawn) <= set("abcdefgh")


def test_random_draws_differ_between_epochs_and_seeds() -> None:
    draws = [draw(count=20, order="random", epoch=epoch, seed=seed) for epoch in range(4) for seed in range(4)]
    assert len(set(draws)) == 16


def test_random_draws_are_uniform_and_with_replacement() -> None:
    assert len(draw(order="random")) == 8
    counts = Counter(draw(count=8000, order="random"))
    assert sorted(counts) == list("abcdefgh")
    # Six standard deviations of a binomial of 8000 draws at 1/8.
    assert all(abs(count - 1000) < 6 * 29.6 for count in counts.values())


def test_more_fixed_prompts_than_the_source_has() -> None:
    with pytest.raises(InputError) as raised:
        draw(count=9)
    message = str(raised.value)
    assert "sample.prompts_per_epoch is 9" in message and "8" in message and "prompts.order=shuffled" in message


@given(total=st.integers(1, 30), count=st.integers(1, 40), seed=st.integers(0, 2**40))
@settings(deadline=None, derandomize=True, max_examples=60)
def test_shuffled_order_uses_every_prompt_once_before_any_is_used_again(total: int, count: int, seed: int) -> None:
    epochs = 3 * ceil(total / count) + 2
    rows = [shuffled(total, epoch, seed, count) for epoch in range(epochs)]
    drawn = [row for epoch in rows for row in epoch]
    for start in range(0, len(drawn) - total + 1, total):
        assert sorted(drawn[start : start + total]) == list(range(total))
    if count <= total:
        assert all(len(set(epoch)) == count for epoch in rows)


def shuffled(total: int, epoch: int, seed: int, count: int | None) -> list[int]:
    """The rows that an epoch draws."""
    source = [Prompt(str(row)) for row in range(total)]
    drawn = draw_prompts(source, epoch=epoch, seed=seed, count=count, order="shuffled", images_per_prompt=1)
    return [int(prompt.text) for prompt in drawn]


def test_shuffled_order_depends_on_the_seed_and_differs_between_passes() -> None:
    passes = {
        tuple(row for epoch in (2 * number, 2 * number + 1) for row in shuffled(16, epoch, seed, 8))
        for number in range(4)
        for seed in range(4)
    }
    assert len(passes) == 16


@pytest.mark.parametrize("count", [None, 8])
def test_an_epoch_of_all_prompts_has_them_in_their_own_order(count: int | None) -> None:
    assert shuffled(8, 3, 1, count) == list(range(8))


def test_shuffled_order_is_uniform_over_positions() -> None:
    firsts = Counter(shuffled(9, epoch, 3, 8)[0] for epoch in range(1800))
    # Six standard deviations of a binomial of 1800 draws at 1/9.
    assert all(abs(firsts[row] - 200) < 6 * 13.4 for row in range(9))


@pytest.mark.parametrize("epochs", [0, 1, 2, 5, 6, 40])
@pytest.mark.parametrize("order", ["shuffled", "fixed"])
def test_seen_prompts_are_those_of_the_epochs(epochs: int, order: PromptOrder) -> None:
    source = [Prompt(str(row)) for row in range(41)]
    arguments: dict[str, Any] = {"seed": 5, "count": 8, "order": order}
    drawn = [draw_prompts(source, epoch=epoch, images_per_prompt=1, **arguments) for epoch in range(max(epochs, 1))]
    expected = {prompt.text for epoch in drawn for prompt in epoch}
    seen = [prompt.text for prompt in seen_prompts(source, epochs=epochs, **arguments)]
    assert set(seen) == expected and seen == sorted(seen, key=int)


@pytest.mark.parametrize(
    ("total", "changes", "numbers"),
    [
        (40, {}, ["all of the 40", "8 per epoch", "2 times", "10 epochs"]),
        (3, {"epochs": 1000}, ["2,667 times"]),
        (40, {"epochs": 5}, ["once in 5 epochs"]),
        (300_000, {}, ["80 of the 300000", "sample.prompts_per_epoch"]),
        (40, {"count": None}, ["all of the 40", "every epoch"]),
        (40, {"order": "fixed"}, ["first 8 of the 40", "prompts.order=shuffled"]),
        (8, {"order": "fixed"}, ["the 8 prompts"]),
        (40, {"order": "random"}, ["8 drawn", "40"]),
        (1, {}, ["1 prompt of mine.txt"]),
    ],
)
def test_the_description_says_how_many_of_how_many(total: int, changes: dict[str, Any], numbers: list[str]) -> None:
    arguments = {"count": 8, "order": "shuffled", "epochs": 10, "source": "mine.txt", **changes}
    line = describe_draw(total, **arguments)
    assert [part for part in (*numbers, "mine.txt") if part not in line] == [] and "\n" not in line
