"""What an algorithm of the user's own does wrong is one line that names it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.toy_policy import ToyPolicy

from stepcredit import InputError, Trainer
from stepcredit.algorithms import ALGORITHMS
from stepcredit.algorithms.base import LossOutput
from stepcredit.algorithms.minibatch import StepBatch
from stepcredit.algorithms.ppo import PPO
from stepcredit.types import Policy


class Raises(PPO):
    def loss(self, policy: Policy, batch: StepBatch, anchor: Any) -> LossOutput:
        raise KeyError("no\nkey")


class Scalar(PPO):
    def loss(self, policy: Policy, batch: StepBatch, anchor: Any) -> LossOutput:
        output = super().loss(policy, batch, anchor)
        return replace(output, loss=output.loss.mean())


class Bare(PPO):
    def loss(self, policy: Policy, batch: StepBatch, anchor: Any) -> Any:
        return super().loss(policy, batch, anchor).loss


class Constant(PPO):
    def loss(self, policy: Policy, batch: StepBatch, anchor: Any) -> LossOutput:
        return LossOutput(torch.zeros(len(batch)))


class NameOfTheRun(PPO):
    def loss(self, policy: Policy, batch: StepBatch, anchor: Any) -> LossOutput:
        return replace(super().loss(policy, batch, anchor), means={"epoch": torch.tensor(99.0)})


class Vector(PPO):
    def loss(self, policy: Policy, batch: StepBatch, anchor: Any) -> LossOutput:
        output = super().loss(policy, batch, anchor)
        return replace(output, maxima={"mine": output.loss.detach()})


class Float(PPO):
    def loss(self, policy: Policy, batch: StepBatch, anchor: Any) -> LossOutput:
        return replace(super().loss(policy, batch, anchor), means={"mine": 3.0})  # type: ignore[dict-item]


class NoAnchors(PPO):
    def anchors(self, policy: Policy, batches: Sequence[StepBatch]) -> list[Any]:
        return []


class NoScores(PPO):
    def step_scores(self, trajectory: Any, step_advantages: Any) -> Any:
        return None


class Warns(PPO):
    def warnings(self, metrics: Any, tolerance: float) -> list[str]:
        raise ZeroDivisionError


class WrongNeeds(PPO):
    needs = None  # type: ignore[assignment]


class WrongConsole(PPO):
    console = {"loss": "{:d}"}  # noqa: RUF012


class Empty:
    """Has no member of the protocol."""


@pytest.fixture
def train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    def start(algorithm: Any) -> Any:
        monkeypatch.setitem(ALGORITHMS._parts, "mine", algorithm)
        trainer = Trainer(
            model=ToyPolicy(),
            reward=lambda images: images[:, 0, 0, 0],
            prompts=["a lake"],
            algorithm="mine",
            output_dir=tmp_path / "run",
            sample={"steps": 4, "images_per_prompt": 2},
            train={"epochs": 1, "updates_per_epoch": 1},
            run={"grid_images": 1},
        )
        return trainer.train()

    return start


@pytest.mark.parametrize(
    "algorithm",
    [
        Raises,
        Scalar,
        Bare,
        Constant,
        NameOfTheRun,
        Vector,
        Float,
        NoAnchors,
        NoScores,
        Warns,
        WrongNeeds,
        WrongConsole,
        Empty,
    ],
)
def test_what_an_algorithm_does_wrong_is_one_line_that_names_it(train: Any, algorithm: Any) -> None:
    with pytest.raises(InputError, match="algorithm 'mine'") as caught:
        train(algorithm)
    assert "\n" not in str(caught.value)


def test_settings_that_an_algorithm_changes_are_restored(train: Any) -> None:
    class GradientsOff(PPO):
        def warnings(self, metrics: Any, tolerance: float) -> list[str]:
            torch.set_grad_enabled(False)
            return []

    assert len(train(GradientsOff).history) == 1
    assert torch.is_grad_enabled()
