"""What a critic of steps regresses, and which of its neurons count as active."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from stepcredit.maths.critic import clipped_value_loss, explained_variance, neuron_activity, temporal_advantages

ADVANTAGE = torch.tensor([2.0, -1.0])
VALUES = torch.tensor([[0.0, 0.5, 2.0], [1.0, -0.5, -1.0]])


def test_a_step_trains_on_what_the_critic_did_not_expect() -> None:
    expected = torch.tensor([[2.0, 1.5, 0.0], [-2.0, -0.5, 0.0]])
    assert torch.equal(temporal_advantages(ADVANTAGE, VALUES, 0.0), expected)


def test_alpha_of_half_takes_half_of_the_critic() -> None:
    expected = torch.tensor([[2.0, 1.75, 1.0], [-1.5, -0.75, -0.5]])
    assert torch.equal(temporal_advantages(ADVANTAGE, VALUES, 0.5), expected)


def test_a_critic_that_says_the_same_everywhere_shifts_uniform_credit() -> None:
    found = temporal_advantages(ADVANTAGE, torch.full((2, 3), 0.25), 0.0)
    assert torch.equal(found, ADVANTAGE.unsqueeze(1).expand(2, 3) - 0.25)
    assert torch.equal(temporal_advantages(ADVANTAGE, VALUES, 1.0), ADVANTAGE.unsqueeze(1).expand(2, 3))


def test_differences_between_steps_telescope_to_what_the_critic_learned_on_the_way() -> None:
    found = temporal_advantages(ADVANTAGE, VALUES, 0.0)
    torch.testing.assert_close((found[:, :-1] - found[:, 1:]).sum(1), VALUES[:, -1] - VALUES[:, 0])


@pytest.mark.parametrize("alpha", [-0.1, 1.1])
def test_alpha_is_between_0_and_1(alpha: float) -> None:
    with pytest.raises(ValueError, match=r"in \[0, 1\]"):
        temporal_advantages(ADVANTAGE, VALUES, alpha)


@pytest.mark.parametrize(
    ("value", "loss", "slope"),
    [
        (0.0, 0.5, -1.0),  # as before: 1/2 (0 - 1)^2
        (0.1, 0.405, -0.9),
        (0.5, 0.32, 0.0),  # beyond 0 + 0.2 towards the target: that of 0.2, which does not move
        (-0.5, 1.125, -1.5),  # away from the target nothing is cut
    ],
)
def test_value_loss_by_hand(value: float, loss: float, slope: float) -> None:
    values = torch.tensor([value], requires_grad=True)
    found = clipped_value_loss(values, torch.zeros(1), torch.ones(1), 0.2)
    found.sum().backward()
    assert found.item() == pytest.approx(loss)
    assert values.grad is not None and values.grad.item() == pytest.approx(slope)


def test_without_clipping_it_is_half_the_squared_error() -> None:
    values, targets = torch.randn(9, generator=torch.Generator().manual_seed(0)), torch.linspace(-1, 1, 9)
    found = clipped_value_loss(values, torch.zeros(9), targets, math.inf)
    torch.testing.assert_close(found, (values - targets) ** 2 / 2)


@pytest.mark.parametrize("clip_range", [0.0, -1.0, math.nan])
def test_the_clip_range_is_positive(clip_range: float) -> None:
    with pytest.raises(ValueError, match="clip_range"):
        clipped_value_loss(torch.zeros(1), torch.zeros(1), torch.zeros(1), clip_range)


@pytest.mark.parametrize(
    ("values", "explained"),
    [([1.0, -1.0], 1.0), ([0.0, 0.0], 0.0), ([-1.0, 1.0], -3.0), ([0.5, -0.5], 0.75)],
)
def test_explained_variance_by_hand(values: list[float], explained: float) -> None:
    assert explained_variance(torch.tensor(values), torch.tensor([1.0, -1.0])) == pytest.approx(explained)


def test_equal_targets_have_nothing_to_explain() -> None:
    assert explained_variance(torch.ones(3), torch.zeros(3)) == 0.0


def test_neuron_activity_by_hand() -> None:
    outputs = torch.tensor([[1.0, 0.0, 2.0], [3.0, 0.0, 0.0]])  # means 2, 0, 1 of mean 1
    assert torch.equal(neuron_activity(outputs), torch.tensor([2.0, 0.0, 1.0]))


def test_activity_does_not_depend_on_the_scale_of_the_layer() -> None:
    outputs: Tensor = torch.rand(5, 4, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(neuron_activity(outputs * 1e-6), neuron_activity(outputs))
    assert neuron_activity(outputs).mean().item() == pytest.approx(1)


def test_a_silent_layer_has_no_active_neuron() -> None:
    assert torch.equal(neuron_activity(torch.zeros(4, 3)), torch.zeros(3))
