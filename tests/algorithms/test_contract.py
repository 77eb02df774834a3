"""What every registered algorithm does, on the toy policy."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.loop import training_loop
from tests.tiny import experienced
from tests.toy_policy import ToyPolicy, toy_config

from stepcredit.algorithms import ALGORITHMS, build_algorithm
from stepcredit.algorithms.gradient import accumulate_gradient
from stepcredit.algorithms.minibatch import UpdatePart
from stepcredit.algorithms.old_weights import OldWeights
from stepcredit.config import TrainSection
from stepcredit.credit import build_credit
from stepcredit.rewards.warmth import Warmth
from stepcredit.runs.directory import RunDirectory
from stepcredit.types import Plan, Prompt

NAMES = ALGORITHMS.names()
STEPS, IMAGES = 4, 4


@pytest.mark.parametrize("name", NAMES)
def test_it_trains_and_logs_finite_figures(tmp_path: Path, name: str) -> None:
    config = toy_config(train={"algorithm": name, "epochs": 2})
    run = RunDirectory.create(tmp_path / "run", config, [])
    policy = ToyPolicy()
    training_loop(config, policy, Warmth(), build_credit(config.credit), [Prompt("a"), Prompt("b")], run).train()
    rows = run.metrics()
    assert len(rows) == 2 and policy.target.abs().sum() > 0
    assert all(row["grad_norm"] > 0 and row["loss"] is not None for row in rows)
    assert all(figure in rows[0] for figure in build_algorithm(config.train).console)


@pytest.mark.parametrize("name", NAMES)
def test_micro_batches_do_not_change_the_gradient(name: str) -> None:
    algorithm, policy = build_algorithm(TrainSection(algorithm=name)), ToyPolicy(STEPS)
    plan = Plan(STEPS, range(STEPS), needs_density=algorithm.needs.density)
    trajectory = policy.rollout([Prompt("a")] * IMAGES, range(IMAGES), plan).trajectory
    advantages = torch.tensor([1.0, -1.0, 0.5, -0.5])
    given = replace(
        experienced(trajectory, advantages[:, None].expand(-1, STEPS)),
        advantages=advantages,
        seeds=list(range(IMAGES)),
        old_weights=OldWeights(policy) if algorithm.needs.old_weights else None,
    )
    found: list[Any] = []
    for size in (1, 3, 16):
        part = UpdatePart(torch.arange(IMAGES), IMAGES, first=True)
        accumulate_gradient(algorithm, policy, torch.amp.GradScaler(enabled=False), given, part, size)
        assert policy.target.grad is not None
        found.append(policy.target.grad.clone())
        policy.target.grad = None
    torch.testing.assert_close(found[1], found[0], rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(found[2], found[0], rtol=1e-5, atol=1e-7)
