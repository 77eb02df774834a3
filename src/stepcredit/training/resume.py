"""What may change when a run is resumed."""

from __future__ import annotations

from collections.abc import Sequence

from stepcredit.config import TrainConfig
from stepcredit.errors import InputError, some_of
from stepcredit.runs.directory import RunDirectory, config_differences

MAY_CHANGE = (
    "train.epochs",
    "train.microbatch",
    "train.max_skipped_updates",
    "sample.batch",
    "model.gradient_checkpointing",
    "model.shard",
    "reward.remote",
    "reward.timeout",
    "reward.ray_workers",
    "reward.ray_gpus",
    "run.processes",
    "run.connect_timeout",
    "run.checkpoint_every",
    "run.keep_checkpoints",
    "run.keep_best",
    "run.plugins",
    "run.trackers",
    "run.grid_every",
    "run.self_check",
    "run.profile",
)
"""Keys for the length of a run, its memory and processes, what it keeps and shows, and where its reward is computed."""


def require_same_run(directory: RunDirectory, config: TrainConfig) -> None:
    """Check that `config` continues the run in `directory` and does not describe another one.

    Raises:
        InputError: a key differs that is not in MAY_CHANGE.
    """
    current = directory.config
    allowed = (*MAY_CHANGE, "reward.options") if current.reward.remote else MAY_CHANGE
    differences = config_differences(current.model_dump(), config.model_dump())
    refused = [line for line in differences if not _is_allowed(line.partition(":")[0], allowed)]
    if refused:
        raise InputError(
            f"{directory.path} holds a different run ({some_of(refused)}); "
            f"only {', '.join(allowed)} may change on resume"
        )


def _is_allowed(key: str, allowed: Sequence[str]) -> bool:
    """Whether `key` is one of `allowed` or below one, as `reward.options.token` is below `reward.options`."""
    return any(key == name or key.startswith(f"{name}.") for name in allowed)
