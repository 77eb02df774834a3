"""Memory grows neither with the epochs of a run nor, beside what is recorded, with the steps of a walk."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.tiny import PROMPTS, SEEDS, descending, experienced, tiny_policy
from tests.toy_policy import toy_config
from torch import Tensor

from stepcredit.config import TrainConfig
from stepcredit.credit import build_credit
from stepcredit.policy.pipeline import PipelinePolicy
from stepcredit.rewards import build_reward
from stepcredit.seeds import Stream, epoch_generator
from stepcredit.tracking import RunDirectory
from stepcredit.trainer import Trainer
from stepcredit.types import Plan, Trajectory, Transition
from stepcredit.update import update_policy


def live_bytes() -> int:
    """Bytes of all tensors that are reachable."""
    gc.collect()
    storages = {}
    for value in gc.get_objects():
        if issubclass(type(value), Tensor) and value.layout == torch.strided:
            storage = value.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


class Weighed(PipelinePolicy):
    """Weighs all tensors at every replay, and then what the forward before it has left behind."""

    weights: list[int]

    def replay(self, trajectory: Trajectory, step: int | Tensor, rows: Tensor | None = None) -> Transition:
        self.weights.append(live_bytes())
        return super().replay(trajectory, step, rows)


def heaviest(steps: int) -> int:
    """Most bytes alive between the forwards of an update, without what the walk has recorded."""
    policy = tiny_policy(steps=steps)
    policy.__class__, policy.weights = Weighed, []  # type: ignore[assignment]
    trajectory = policy.rollout(PROMPTS, SEEDS, Plan(steps, range(steps))).trajectory
    section = TrainConfig().train.model_copy(update={"updates_per_epoch": 1})
    before = live_bytes()
    update_policy(
        policy,
        descending(policy, section),
        experienced(trajectory, torch.ones(len(trajectory), steps)),
        section,
        epoch_generator(0, Stream.SHUFFLE, 0),
    )
    assert len(policy.weights) == steps  # type: ignore[attr-defined]
    return max(policy.weights) - before  # type: ignore[attr-defined]


def test_an_update_keeps_no_more_of_a_long_walk_than_of_a_short_one() -> None:
    short, long = heaviest(3), heaviest(12)
    assert short > 0
    assert abs(long - short) < 4096  # figures of each forward, a few bytes apiece


class Epochs(RunDirectory):
    """Weighs all tensors after some of the epochs."""

    def append_metrics(self, row: Any) -> None:
        super().append_metrics(row)
        if row["epoch"] in (10, 30, 50):
            self.weights = [*getattr(self, "weights", []), live_bytes()]


@pytest.mark.slow
def test_fifty_epochs_leave_nothing_behind(tmp_path: Path) -> None:
    config = toy_config(
        sample={"steps": 3, "prompts_per_epoch": 2, "images_per_prompt": 2},
        train={"epochs": 50, "advantage": "running", "buffer_size": 8, "min_count": 4},
        credit={"window": 1},
        run={"grid_every": 1000, "checkpoint_every": 1000},
    )
    run = Epochs(RunDirectory.create(tmp_path / "run", config, []).path)
    reward, credit = build_reward(config.reward), build_credit(config.credit)
    Trainer(config, tiny_policy(steps=3), reward, credit, PROMPTS, run).train()
    first, *later = run.weights
    assert len(later) == 2
    assert max(abs(weight - first) for weight in later) <= 1024
