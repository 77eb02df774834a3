"""What may change when a run is resumed."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stepcredit.config import TrainConfig
from stepcredit.errors import InputError, some_of
from stepcredit.runs.changes import is_moved
from stepcredit.runs.directory import RunDirectory

MAY_CHANGE = (
    "model.path",
    "model.device",
    "model.gradient_checkpointing",
    "model.compile",
    "model.shard",
    "sample.batch",
    "sample.evaluation_steps",
    "sample.evaluation_noise",
    "train.epochs",
    "train.microbatch",
    "train.max_skipped_updates",
    "reward.remote",
    "reward.overlap",
    "reward.timeout",
    "reward.ray_workers",
    "reward.ray_gpus",
    "prompts.source",
    "run.processes",
    "run.connect_timeout",
    "run.checkpoint_every",
    "run.keep_checkpoints",
    "run.keep_best",
    "run.plugins",
    "run.trackers",
    "run.grid_every",
    "run.grid_images",
    "run.self_check",
    "run.profile",
)
"""Keys for places, devices, memory and processes, the length of a run, what it keeps and shows."""

_PLACES_OF_REWARDS = re.compile(r"reward\.(components\.\d+\.)?(remote|options\.(path|tokenizer|device|batch_size))")
_NAMES = re.compile(r"(reward|credit)\.name|reward\.components\.\d+\.name|train\.algorithm|sample\.sampler")


@dataclass(frozen=True)
class Change:
    """A key whose value differs between two configurations.

    Attributes:
        affects_results: whether the results of the run change beyond rounding.
    """

    key: str
    before: Any
    after: Any
    affects_results: bool

    def __str__(self) -> str:
        return f"{self.key} {self.before} -> {self.after}"


def run_changes(current: TrainConfig, config: TrainConfig) -> list[Change]:
    """The keys in which `config` differs from `current`, the configuration of a run."""
    before, after = (dict(_leaves(each.model_dump(mode="json"))) for each in (current, config))
    options = current.reward.remote is not None
    return [
        Change(key, before.get(key), after.get(key), not _is_allowed(key, before.get(key), after.get(key), options))
        for key in before | after
        if before.get(key) != after.get(key)
    ]


def require_same_run(directory: RunDirectory, config: TrainConfig, *, allow_change: bool = False) -> None:
    """Check that `config` continues the run in `directory` and does not describe another one.

    Args:
        allow_change: accept keys that change the results as well.

    Raises:
        InputError: a key that changes the results differs.
    """
    refused = [change for change in run_changes(directory.config, config) if change.affects_results]
    if refused and not allow_change:
        lines = [f"{change.key}: {change.before} there, {change.after} here" for change in refused]
        raise InputError(
            f"{directory.path} holds a different run ({some_of(lines)}); only places, devices, memory and the length "
            "of a run may change on resume, such as model.path, model.device and train.epochs; to resume with these "
            "changes, add --allow-change (allow_change=True in Python); to start a new run from these weights, use "
            f"--from {directory.path}"
        )


def _is_allowed(key: str, before: Any, after: Any, remote_options: bool) -> bool:
    """Whether a change of `key` leaves the results as they are, up to rounding."""
    if _NAMES.fullmatch(key):
        return is_moved(before, after)
    names = (*MAY_CHANGE, "reward.options") if remote_options else MAY_CHANGE
    return bool(_PLACES_OF_REWARDS.fullmatch(key)) or any(key == name or key.startswith(f"{name}.") for name in names)


def _leaves(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of every value that is neither a mapping nor a list of mappings."""
    if isinstance(value, Mapping) and value:
        for name, inner in value.items():
            yield from _leaves(inner, f"{key}.{name}" if key else str(name))
    elif isinstance(value, Sequence) and value and all(isinstance(inner, Mapping) for inner in value):
        for number, inner in enumerate(value):
            yield from _leaves(inner, f"{key}.{number}")
    else:
        yield key, value
