"""Why a checkpoint holds no state of a random generator: a run takes no number from any that has one."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.cli.command_line import TINY, TOY, newest_checkpoint, rows, stepcredit, tree
from tests.hostile.trials import record

from stepcredit.policy.adapters.ema import AveragedAdapter
from stepcredit.rewards.warmth import Warmth
from stepcredit.training.reward_queue import RewardQueue


@contextmanager
def stirred(seed: int) -> Iterator[None]:
    """The global generators begin elsewhere and are drawn from all through the run."""
    drawn = np.random.default_rng(seed)

    def stir() -> None:
        for begin in (random.seed, np.random.seed, torch.manual_seed):
            begin(int(drawn.integers(2**31)))

    def stirring(original: Callable[..., Any]) -> Callable[..., Any]:
        def called(*arguments: Any, **named: Any) -> Any:
            stir()
            result = original(*arguments, **named)
            stir()
            return result

        return called

    with pytest.MonkeyPatch.context() as patch:
        for owner, name in (
            (Warmth, "__call__"),
            (RewardQueue, "add"),
            (torch.optim.AdamW, "step"),
            (AveragedAdapter, "stepped"),
        ):
            patch.setattr(owner, name, stirring(getattr(owner, name)))
        stir()
        yield


@pytest.mark.parametrize("policy", ["toy policy", "embedded pipeline"])
def test_no_global_generator_has_a_say(here: Path, request: pytest.FixtureRequest, policy: str) -> None:
    if policy == "toy policy":
        request.getfixturevalue("toy")
    command = ["train", *(TOY if policy == "toy policy" else TINY), "reward.name=warmth", "prompts.order=random"]
    command += ["model.ema=0.5", "train.epochs=2", "train.learning_rate=0.05"]
    for seed in (1, 2):
        with stirred(seed):
            said = stepcredit(*command, "--run", str(seed))
        assert (said.code, said.err) == (0, ""), said
    assert rows(here / "1") == rows(here / "2")
    assert newest_checkpoint(here / "1") == newest_checkpoint(here / "2")
    assert tree(here / "1" / "samples") == tree(here / "2" / "samples")
    record(
        "global generators of torch, NumPy, Python",
        f"{policy}, reseeded throughout a run",
        "the same run bit for bit",
    )
