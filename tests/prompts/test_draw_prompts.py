"""The prompts of an epoch depend only on the configuration, the seed and the epoch."""

from __future__ import annotations

from collections import Counter
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stepcredit.errors import InputError
from stepcredit.prompts import draw_prompts
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


@pytest.mark.parametrize("order", ["fixed", "random"])
def test_images_of_a_prompt_are_consecutive(order: Literal["fixed", "random"]) -> None:
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
    assert "sample.prompts_per_epoch is 9" in message and "8" in message and "prompts.order=random" in message
