"""Some of the steps are drawn with known probabilities, and what is drawn stands for all of them."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from stepcredit.maths.step_sampling import inclusion_probabilities, step_scores, systematic_draw

ALL = torch.ones(5, dtype=torch.bool)


def exact_frequencies(probabilities: Tensor) -> Tensor:
    """How often each step of one row is drawn over all starts in [0, 1): between two ends nothing changes."""
    ends = probabilities.double().masked_fill(probabilities >= 1, 0).cumsum(0)
    marks = torch.cat([torch.tensor([0.0, 1.0]), ends.remainder(1)]).double().unique()
    middles, lengths = (marks[1:] + marks[:-1]) / 2, marks.diff()
    drawn = systematic_draw(probabilities.expand(len(middles), -1), middles)
    return (drawn.double() * lengths.unsqueeze(1)).sum(0)


def drawn_scores(values: list[float]) -> Tensor:
    return torch.tensor([values], dtype=torch.float64)


rows = st.lists(st.one_of(st.just(0.0), st.floats(1e-6, 1e6)), min_size=5, max_size=5)


@given(scores=rows, count=st.integers(1, 6))
@settings(deadline=None, derandomize=True, max_examples=150)
def test_every_step_is_drawn_as_often_as_its_probability_says(scores: list[float], count: int) -> None:
    probabilities = inclusion_probabilities(drawn_scores(scores), ALL, count)
    assert probabilities.sum().item() == pytest.approx(min(count, 5))
    assert (probabilities > 0).all() and (probabilities <= 1).all()
    torch.testing.assert_close(exact_frequencies(probabilities[0]), probabilities[0], atol=1e-9, rtol=0)


@given(scores=rows, count=st.integers(1, 6), start=st.floats(0, 1, exclude_max=True))
@settings(deadline=None, derandomize=True, max_examples=150)
def test_as_many_are_drawn_as_were_asked_for(scores: list[float], count: int, start: float) -> None:
    drawn = systematic_draw(
        inclusion_probabilities(drawn_scores(scores), ALL, count), torch.tensor([start], dtype=torch.float64)
    )
    assert drawn.sum() == min(count, 5)


@given(scores=rows, values=st.lists(st.floats(-9, 9), min_size=5, max_size=5), count=st.integers(1, 4))
@settings(deadline=None, derandomize=True, max_examples=50)
def test_the_weighted_sum_of_the_drawn_is_that_of_all_in_expectation(
    scores: list[float], values: list[float], count: int
) -> None:
    probabilities = inclusion_probabilities(drawn_scores(scores), ALL, count)[0]
    expected = (exact_frequencies(probabilities) / probabilities * torch.tensor(values).double()).sum()
    assert expected.item() == pytest.approx(math.fsum(values), abs=1e-6)


def test_probabilities_by_hand() -> None:
    # Shares .9 (.5 .25 .25 0) + .1 / 4 = .475 .25 .25 .025, of which one step is drawn.
    found = inclusion_probabilities(drawn_scores([2, 1, 1, 0]), ALL[:4], 1)
    torch.testing.assert_close(found, drawn_scores([0.475, 0.25, 0.25, 0.025]))
    # Three: 3 x .475 is more than 1, so the first is certain, and two more are drawn by .25 .25 .025 of .525.
    found = inclusion_probabilities(drawn_scores([2, 1, 1, 0]), ALL[:4], 3)
    torch.testing.assert_close(found, drawn_scores([1, 20 / 21, 20 / 21, 2 / 21]))


def test_a_step_that_takes_more_than_its_share_can_make_others_certain() -> None:
    # Of 100 : 10 : 1 : 1 : 1 three: the first is certain at once, the second only then.
    found = inclusion_probabilities(drawn_scores([100, 10, 0, 0, 0]), ALL, 3)
    torch.testing.assert_close(found, drawn_scores([1, 1, 1 / 3, 1 / 3, 1 / 3]))


def test_equal_scores_are_uniform() -> None:
    for scores in ([3.0] * 5, [0.0] * 5):
        torch.testing.assert_close(
            inclusion_probabilities(drawn_scores(scores), ALL, 2), torch.full((1, 5), 0.4).double()
        )


def test_a_step_that_is_not_trained_is_never_drawn() -> None:
    trainable = torch.tensor([True, False, True, True, False])
    for count in (1, 2, 3, 9):
        found = inclusion_probabilities(drawn_scores([1, 9, 1, 0, 9]), trainable, count)
        assert found[0, ~trainable].tolist() == [0, 0] and found.sum().item() == pytest.approx(min(count, 3))
        for start in (0.0, 0.37, 0.999999):
            assert not systematic_draw(found, torch.tensor([start]))[0, ~trainable].any()


@pytest.mark.parametrize("count", [5, 6, 100])
def test_as_many_as_there_are_is_all_of_them(count: int) -> None:
    found = inclusion_probabilities(drawn_scores([5, 4, 3, 2, 0]), ALL, count)
    assert torch.equal(found, torch.ones(1, 5).double())
    assert systematic_draw(found, torch.zeros(1)).all()


def test_a_draw_by_hand() -> None:
    # Ends at .5, 1.0, 1.2, 2.0 and, certain beside them, the last: starts .1 and 1.1, or .7 and 1.7.
    probabilities = torch.tensor([0.5, 0.5, 0.2, 0.8, 1.0]).expand(2, -1)
    drawn = systematic_draw(probabilities, torch.tensor([0.1, 0.7]))
    assert drawn.tolist() == [[True, False, True, False, True], [False, True, False, True, True]]


def test_each_row_has_its_own_start() -> None:
    probabilities = torch.full((1000, 4), 0.25).double()
    starts = torch.rand(1000, generator=torch.Generator().manual_seed(0)).double()
    drawn = systematic_draw(probabilities, starts)
    assert torch.equal(drawn.double().argmax(1), (starts * 4).long())


def test_the_last_step_is_not_lost_to_rounding() -> None:
    """Twenty-five shares of float32 add up to a little less than 1."""
    probabilities = torch.full((1, 25), 1 / 25).double()
    assert probabilities.cumsum(1)[0, -1] < 1
    assert systematic_draw(probabilities, torch.tensor([math.nextafter(1, 0)], dtype=torch.float64)).sum() == 1


def test_scores_by_hand() -> None:
    native, trainable = torch.tensor([1.0, 2.0, math.inf, 9.0]), torch.tensor([True, True, True, False])
    found = step_scores(torch.tensor([[3.0, -1.0, 0.5, 7.0], [0.0, 0.0, 0.0, 1.0]]), native, trainable)
    assert found.tolist() == [[3.0, 2.0, 1.0, 0.0], [0.0, 0.0, 0.0, 0.0]]
    alone = step_scores(torch.tensor([[3.0]]), torch.tensor([math.inf]), ALL[:1])
    assert alone.tolist() == [[3.0]]


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="one per step"):
        step_scores(torch.ones(2, 3), torch.ones(2), ALL[:3])
    with pytest.raises(ValueError, match="one flag per step"):
        inclusion_probabilities(torch.ones(2, 3), ALL, 1)
    with pytest.raises(ValueError, match="count is 0"):
        inclusion_probabilities(torch.ones(2, 5), ALL, 0)
    with pytest.raises(ValueError, match="one per row"):
        systematic_draw(torch.ones(2, 5), torch.zeros(3))
