"""How the scores of a mixture's components add up, for training and for show."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from stepcredit.maths._moments import EPSILON
from stepcredit.rewards.core.scores import Component, Scores, join, mix

PROMPTS = ["a", "b", "a", "b"]


def scores(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float32)


def test_a_fixed_mean_and_scale_count_everywhere() -> None:
    component = Component(scores(1, 2, 3, 5), weight=-2.0, mean=1.0, scale=4.0)
    assert component.value().tolist() == [0, -0.5, -1, -2]
    assert component.trained(PROMPTS).tolist() == [0, -0.5, -1, -2]


def test_per_prompt_is_for_training_alone() -> None:
    component = Component(scores(1, 10, 3, 30), weight=0.5, per_prompt=True)
    assert component.value().tolist() == [0.5, 5, 1.5, 15]
    expected = [-0.5 / (1 + EPSILON), -5 / (10 + EPSILON), 0.5 / (1 + EPSILON), 5 / (10 + EPSILON)]
    assert component.trained(PROMPTS).tolist() == pytest.approx(expected)


def test_equal_scores_of_a_prompt_teach_nothing() -> None:
    component = Component(scores(7, 1, 7, 2), per_prompt=True)
    assert component.trained(PROMPTS)[[0, 2]].tolist() == [0, 0]
    assert component.trained(["a", "b", "c", "d"]).tolist() == [0, 0, 0, 0]


def test_a_mixture_is_the_sum_of_its_components() -> None:
    mixed = mix(
        {
            "large": Component(scores(1000, 3000, 2000, 1000), weight=1.0, per_prompt=True),
            "small": Component(scores(0.1, 0.1, 0.3, 0.2), weight=2.0, per_prompt=True),
        }
    )
    assert mixed.values.tolist() == pytest.approx([1000.2, 3000.2, 2000.6, 1000.4])
    assert mixed.trained(PROMPTS).tolist() == pytest.approx([-3, 1 - 2, 3, -1 + 2], abs=1e-4)


def test_standardized_per_prompt_neither_component_drowns_the_other() -> None:
    """Scales of 1000 and 0.001 count alike; raw, the larger decides alone."""
    generator = torch.Generator().manual_seed(0)
    large, small = 1000 * torch.randn(400, generator=generator), 0.001 * torch.randn(400, generator=generator)
    names = ["a", "b"] * 200
    for per_prompt, expected in ((True, 0.7), (False, 0.0)):
        mixed = mix({"l": Component(large, per_prompt=per_prompt), "s": Component(small, per_prompt=per_prompt)})
        correlation = torch.corrcoef(torch.stack([mixed.trained(names), small]))[0, 1]
        assert float(correlation) == pytest.approx(expected, abs=0.15)


def test_a_mixture_standardized_per_prompt_has_mean_zero_whatever_was_learned() -> None:
    """Why the values that are shown are not those that are trained on."""
    for level in (0.0, 100.0):
        mixed = mix({"only": Component(level + scores(1, 2, 4, 8), per_prompt=True)})
        assert float(mixed.trained(PROMPTS).mean()) == pytest.approx(0, abs=1e-6)
        assert float(mixed.values.mean()) == level + 3.75


def test_any_other_reward_is_trained_on_as_it_is() -> None:
    values = scores(1, 2, 3, 4)
    assert Scores(values).trained(PROMPTS) is values
    assert Scores(values).statistics() == {}


def test_statistics_are_of_the_components_own_scores() -> None:
    mixed = mix({"one": Component(scores(1, 3), weight=5.0, mean=1.0, scale=9.0), "two": Component(scores(2, 2))})
    assert mixed.statistics() == {"one": {"mean": 2.0, "std": 1.0}, "two": {"mean": 2.0, "std": 0.0}}


def test_batches_are_joined_before_they_are_standardized() -> None:
    whole = mix({"p": Component(scores(1, 2, 3, 5), weight=3.0, per_prompt=True), "f": Component(scores(4, 3, 2, 1))})
    halves = [
        mix(
            {name: Component(c.scores[rows], c.weight, per_prompt=c.per_prompt) for name, c in whole.components.items()}
        )
        for rows in (slice(0, 1), slice(1, 4))
    ]
    joined = join(halves)
    assert joined.values.tolist() == whole.values.tolist()
    assert joined.trained(PROMPTS).tolist() == whole.trained(PROMPTS).tolist()
    assert joined.statistics() == whole.statistics()
    assert join([Scores(scores(1)), Scores(scores(2))]).values.tolist() == [1, 2]
