"""One AdamW for runs and benchmarks, fused where that is one kernel instead of many."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.families.proof import configuration
from tests.test_benchmarks import module
from tests.tiny import PROMPTS, SEEDS, tiny_policy
from tests.toy_policy import ToyPolicy, toy_config

from stepcredit.config import TrainSection
from stepcredit.distributed.adamw import build_optimizer
from stepcredit.training.recovery import Recovery
from stepcredit.training.state import TrainingState

__all__ = ["module"]
SECTION = TrainSection(learning_rate=3e-3, betas=(0.8, 0.99), adam_epsilon=1e-7, weight_decay=0.02)


class Elsewhere(torch.nn.Parameter):
    """Says that it is on another device."""

    device = torch.device("cuda")


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The options of every AdamW that is made, though it is made unfused."""
    options: list[dict[str, Any]] = []
    own = torch.optim.AdamW.__init__

    def init(self: Any, weights: Any, **named: Any) -> None:
        options.append(named)
        own(self, weights, **{**named, "fused": False})

    monkeypatch.setattr(torch.optim.AdamW, "__init__", init)
    return options


@pytest.mark.parametrize(
    ("device", "unfused", "fused"), [("cpu", False, False), ("cuda", False, True), ("cuda", True, False)]
)
def test_adamw_is_fused_on_cuda_unless_steps_may_be_skipped(
    given: list[dict[str, Any]], device: str, unfused: bool, fused: bool
) -> None:
    kind = Elsewhere if device == "cuda" else torch.nn.Parameter
    build_optimizer([kind(torch.zeros(2))], SECTION, unfused=unfused)
    assert given == [{"lr": 3e-3, "betas": (0.8, 0.99), "eps": 1e-7, "weight_decay": 0.02, "fused": fused}]


def test_runs_and_benchmarks_have_the_same_optimizer(module: Any, given: list[dict[str, Any]]) -> None:
    config = toy_config(train=SECTION.model_dump(include={"learning_rate", "betas", "adam_epsilon", "weight_decay"}))
    TrainingState(config, ToyPolicy(), Recovery(1, print))
    throughput = module("_throughput")
    policy = tiny_policy(steps=1)
    throughput.update(policy, config, policy.rollout(PROMPTS, SEEDS).trajectory)
    build_optimizer([torch.nn.Parameter(torch.zeros(2))], SECTION)
    assert given[0] == given[1] == given[2]


def test_a_loss_that_is_scaled_is_told_to_the_optimizer(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    own = build_optimizer

    def asking(*arguments: Any, unfused: bool) -> Any:
        asked.append(unfused)
        return own(*arguments, unfused=unfused)

    monkeypatch.setattr("stepcredit.training.state.build_optimizer", asking)
    for dtype in ("float32", "bfloat16", "float16"):
        TrainingState(configuration("sd", model={"dtype": dtype}), ToyPolicy(), Recovery(1, print))
    assert asked == [False, False, True]


def test_a_fused_step_is_the_plain_one() -> None:
    """In float32, twenty steps of AdamW in one kernel and in many: they round differently."""
    ends = []
    for fused in (False, True):
        generator = torch.Generator().manual_seed(0)
        weights = [torch.nn.Parameter(torch.randn(size, generator=generator)) for size in ((8, 16), (4, 8), (3,))]
        optimizer = build_optimizer(weights, SECTION)
        for group in optimizer.param_groups:
            group["fused"] = fused
        for _ in range(20):
            for weight in weights:
                weight.grad = torch.randn(weight.shape, generator=generator)
            optimizer.step()
        ends.append(torch.cat([weight.detach().flatten() for weight in weights]))
    difference = float((ends[1] - ends[0]).norm() / ends[0].norm())
    assert difference < 1e-8  # 2.4e-9 was measured
