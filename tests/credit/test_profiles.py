"""How much each step counts: by credit, by the sampler, and in the update."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch
from tests.toy_policy import ToyPolicy

from stepcredit.credit._profiles import step_profiles
from stepcredit.types import Prompt, Trajectory

PROMPTS = [Prompt("a lake"), Prompt("a hill")]
ADVANTAGES = torch.tensor([[3.0, -1.0, 9.0], [-1.0, 1.0, 9.0]])


def trajectories(output_scales: list[float], last_std: float = 0.3) -> Trajectory:
    trajectory = ToyPolicy(steps=3, last_std=last_std).rollout(PROMPTS, [1, 2]).trajectory
    stds = torch.tensor([0.5, 0.25, last_std])
    schedule = replace(trajectory.schedule, stds=stds, output_scales=torch.tensor(output_scales))
    return replace(trajectory, schedule=schedule)


def test_profiles_by_hand() -> None:
    # Mean |M| is 2, 1, 9 and the native scale 1, 2, 0: the last step draws no noise and is not trained.
    found = step_profiles(trajectories([0.5, 0.5, 7.0], last_std=0.0), ADVANTAGES)
    assert found == {
        "credit_profile": pytest.approx([2.0, 1.0, 0.0]),
        "native_scale": pytest.approx([1.0, 2.0, 0.0]),
        "update_profile": pytest.approx([1.5, 1.5, 0.0]),
    }


def test_a_trained_last_step_counts() -> None:
    # Mean |M| is 2, 1, 9 and the native scale 1, 2, 1.
    found = step_profiles(trajectories([0.5, 0.5, 0.3]), ADVANTAGES)
    assert found["credit_profile"] == pytest.approx([0.5, 0.25, 2.25])
    assert found["native_scale"] == pytest.approx([0.75, 1.5, 0.75])
    assert found["update_profile"] == pytest.approx([6 / 13, 6 / 13, 27 / 13])


def test_without_advantages_there_is_a_sampler_but_no_update() -> None:
    found = step_profiles(trajectories([0.5, 0.5, 0.3]), torch.zeros(2, 3))
    assert found["credit_profile"] == found["update_profile"] == [0.0] * 3
    assert sum(found["native_scale"]) == pytest.approx(3)


def test_an_infinite_scale_leaves_figures_that_can_be_written() -> None:
    found = step_profiles(trajectories([math.inf, 0.5, 0.3]), ADVANTAGES)
    assert found["native_scale"][0] == found["update_profile"][0] == 0
    json.dumps(found, allow_nan=False)
