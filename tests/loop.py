"""A training loop put together from parts, for tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from stepcredit.algorithms import build_algorithm
from stepcredit.config import TrainConfig
from stepcredit.rewards import checked
from stepcredit.runs.directory import RunDirectory
from stepcredit.runs.progress import Progress
from stepcredit.training.parts import Parts
from stepcredit.training.trainer import TrainingLoop
from stepcredit.types import CreditAssigner, Policy, Prompt


def training_loop(
    config: TrainConfig,
    policy: Policy,
    reward: Any,
    credit: CreditAssigner,
    prompts: Sequence[Prompt],
    run: RunDirectory,
    progress: Progress | None = None,
    **options: Any,
) -> TrainingLoop:
    parts = Parts(policy, checked(reward, config.reward.name), credit, build_algorithm(config.train), prompts)
    return TrainingLoop(config, parts, run, progress=progress, **options)
