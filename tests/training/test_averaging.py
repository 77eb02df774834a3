"""A run with averaged weights: updated after every step, drawn on grids, exported, and the same after a resume."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.loop import training_loop
from tests.toy_policy import WEIGHTS, ToyPolicy, toy_config
from torch import Tensor

from stepcredit.config import TrainConfig
from stepcredit.credit import build_credit
from stepcredit.errors import RewardError
from stepcredit.policy.adapters.ema import AveragedAdapter, warmed_up
from stepcredit.rewards.warmth import Warmth
from stepcredit.runs import checkpoint
from stepcredit.runs.directory import RunDirectory
from stepcredit.training.trainer import TrainingLoop
from stepcredit.types import Prompt, Rollout

PROMPTS = [Prompt("a lake"), Prompt("a hill"), Prompt("a road")]
DECAY = 0.5


class AveragingToy(ToyPolicy):
    """The toy policy with averages; `drawn_with` is its target in every rollout, `stepped_to` after every step."""

    def __init__(self) -> None:
        super().__init__()
        inner: Any = ToyPolicy()
        inner.target = self.target
        self.adapter = AveragedAdapter(inner, DECAY)
        self.drawn_with: list[Tensor] = []
        self.stepped_to: list[Tensor] = []

    def rollout(self, *arguments: Any, **named: Any) -> Rollout:
        self.drawn_with.append(self.target.detach().clone())
        return super().rollout(*arguments, **named)

    def averaged(self) -> AbstractContextManager[None]:
        return self.adapter.averaged()

    def stepped(self) -> None:
        self.stepped_to.append(self.target.detach().clone())
        self.adapter.stepped()

    def state_dict(self) -> dict[str, Tensor]:
        return self.adapter.state_dict()

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.adapter.load_state_dict(state)

    def export(self, folder: Path) -> Path:
        return self.adapter.export(folder)


def averages(targets: Sequence[Tensor]) -> list[Tensor]:
    """After each of the steps, from the initial target 0."""
    found = [torch.zeros_like(targets[0])]
    for number, target in enumerate(targets):
        decay = warmed_up(DECAY, number)
        found.append(decay * found[-1] + (1 - decay) * target)
    return found[1:]


def trainer(folder: Path, config: TrainConfig, policy: ToyPolicy, reward: Any = None) -> TrainingLoop:
    run = RunDirectory(folder)
    if not run.config_path.exists():
        RunDirectory.create(folder, config, ["stepcredit"])
    return training_loop(config, policy, reward or Warmth(), build_credit(config.credit), PROMPTS, run)


def newest(folder: Path) -> dict[str, Tensor]:
    return checkpoint.load(checkpoint.folders(folder / "checkpoints")[-1]).tensors


def test_every_step_is_averaged_and_the_average_exported(tmp_path: Path) -> None:
    policy = AveragingToy()
    exported = load_file(trainer(tmp_path, toy_config(run={"grid_every": 9}), policy).train())["target"]
    assert len(policy.stepped_to) == 3 * 2
    assert policy.target.equal(policy.stepped_to[-1])
    assert torch.allclose(exported, averages(policy.stepped_to)[-1], atol=1e-6)
    assert not torch.allclose(exported, policy.target, atol=1e-3)


def test_grids_are_drawn_from_averages_and_epochs_are_not(tmp_path: Path) -> None:
    policy = AveragingToy()
    trainer(tmp_path, toy_config(run={"grid_every": 1}), policy).train()
    # the first grid, then an epoch and its grid, three times
    grids, epochs = policy.drawn_with[2::2], policy.drawn_with[1::2]
    expected = averages(policy.stepped_to)[1::2]
    assert all(torch.allclose(left, right, atol=1e-6) for left, right in zip(grids, expected, strict=True))
    started = [torch.zeros_like(policy.target), *policy.stepped_to[1:-1:2]]
    assert all(torch.equal(left, right) for left, right in zip(epochs, started, strict=True))


def test_a_resumed_run_has_the_averages_of_the_run_that_never_stopped(tmp_path: Path) -> None:
    trainer(tmp_path / "whole", toy_config(), AveragingToy()).train()
    trainer(tmp_path / "parts", toy_config(train={"epochs": 1}), AveragingToy()).train()
    again = trainer(tmp_path / "parts", toy_config(), AveragingToy())
    again.resume()
    path = again.train()
    whole, parts = newest(tmp_path / "whole"), newest(tmp_path / "parts")
    assert {"policy.target", "policy.ema.0", "policy.ema.updates"} <= whole.keys() == parts.keys()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    assert path.read_bytes() == (tmp_path / "whole" / "lora" / WEIGHTS).read_bytes()


def test_a_reward_that_fails_on_a_grid_leaves_the_trained_weights_in_the_checkpoint(tmp_path: Path) -> None:
    policy = AveragingToy()

    def reward(images: Tensor, prompts: Sequence[str], metadata: Sequence[dict[str, Any]]) -> Tensor:
        if len(policy.drawn_with) == 3:  # the first grid, an epoch, its grid
            raise ValueError("no")
        return Warmth()(images, prompts, metadata)

    with pytest.raises(RewardError, match="sample grid after epoch 1"):
        trainer(tmp_path, toy_config(run={"grid_every": 1}), policy, reward).train()
    saved = checkpoint.load(checkpoint.folders(tmp_path / "checkpoints")[-1])
    assert saved.epoch == 1
    state = saved.part("policy")
    assert torch.equal(state["target"], policy.stepped_to[1])
    assert torch.allclose(state["ema.0"], averages(policy.stepped_to)[1], atol=1e-6)
