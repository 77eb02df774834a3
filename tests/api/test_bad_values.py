"""Values that used to break a run or end in a traceback are one-line errors."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
from tests.toy_policy import ToyPolicy

from stepcredit import InputError, RewardError, Trainer
from stepcredit.credit import as_credit
from stepcredit.rewards import checked
from stepcredit.types import Plan, Prompt


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"seed": 2**63}, "seed"),
        ({"plugins": 1}, "plugins"),
        ({"plugins": [1]}, "plugins"),
        ({"output_dir": 1}, "output_dir"),
        ({"callbacks": [lambda: None]}, "callback"),
        ({"prompts": ()}, "prompts"),
        ({"reward": {"name": lambda images: images, "options": {"a": 1}}}, r"reward\.options"),
    ],
)
def test_wrong_arguments_are_refused(arguments: dict[str, Any], named: str) -> None:
    with pytest.raises(InputError, match=named):
        Trainer(**arguments)


@pytest.mark.parametrize("arguments", [{"images": 0}, {"images": 1.5}, {"seed": -1}, {"seed": "x"}])
def test_sampling_refuses_wrong_numbers_before_a_model_is_loaded(arguments: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(arguments))):
        Trainer().sample("a cat", **arguments)


def test_a_reward_that_exits_is_an_error_of_the_reward() -> None:
    with pytest.raises(RewardError, match="SystemExit"):
        checked(lambda *_: sys.exit(7), "mine")(torch.zeros(1, 3, 2, 2), ["a"], [{}])


def test_a_credit_function_that_raises_is_named() -> None:
    trajectory = ToyPolicy(4).rollout([Prompt("a")], [0], Plan(4, range(4)), keep_x0=True).trajectory
    rule = as_credit(lambda trajectory, advantage: 1 / 0, "mine", {})
    with pytest.raises(InputError, match="'mine' raised ZeroDivisionError"):
        rule(trajectory, torch.ones(1))
