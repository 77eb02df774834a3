"""`stepcredit train`: which run, with which configuration. `training` then does it.

torch and diffusers take seconds to import, so a mistyped key is told before.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from stepcredit.config import TrainConfig
from stepcredit.errors import InputError, Interrupted, some_of
from stepcredit.runs import recipes
from stepcredit.runs.directory import RunDirectory, config_differences, next_run_path
from stepcredit.utils.signals import interruptible

RUNS = Path("runs")
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
    "run.checkpoint_every",
    "run.keep_checkpoints",
    "run.keep_best",
)
"""What may change when a run goes on: how long it is, the memory it takes, where its reward lives, its patience, its
processes, and what it keeps."""


def train(recipe: Sequence[str], overrides: Sequence[str], run: Path | None, resume: bool) -> None:
    """Train as the command line says; raises StepcreditError for everything a user can mend."""
    if len(recipe) > 1:
        raise InputError(f"give one recipe, not {len(recipe)}: {' '.join(recipe)}; overrides are section.key=value")
    name = recipe[0] if recipe else None
    with _interruptible():
        if resume:
            directory = RunDirectory.open(run or _newest_run())
            config = _resumed_config(directory, name, overrides)
            from stepcredit.training.run import resume_run

            resume_run(config, directory)
        else:
            config = recipes.load(name, overrides)
            stem = Path(name or recipes.DEFAULT).stem
            from stepcredit.training.run import start_run

            start_run(config, lambda: run or next_run_path(RUNS, stem))


def _newest_run() -> Path:
    runs = sorted(RUNS.glob("*/config.yaml"), key=lambda path: path.stat().st_mtime)
    if not runs:
        raise InputError(f"no run under {RUNS}/ to resume; name one with --run")
    return runs[-1].parent


def _resumed_config(directory: RunDirectory, recipe: str | None, overrides: Sequence[str]) -> TrainConfig:
    """The configuration to go on with: the run's own, in which only its length and where rewards live may change."""
    asked = recipes.load(recipe or directory.config_path, overrides)
    changed = config_differences(directory.config.model_dump(), asked.model_dump())
    free = (*MAY_CHANGE, "reward.options") if directory.config.reward.remote else MAY_CHANGE
    other = [line for line in changed if not line.partition(":")[0].startswith(free)]
    if other:
        raise InputError(
            f"{directory.path} holds a different run ({some_of(other)}); only {', '.join(free)} may change on resume"
        )
    return asked


@contextmanager
def _interruptible() -> Iterator[None]:
    """SIGTERM ends a run as Ctrl-C does."""
    try:
        with interruptible():
            yield
    except KeyboardInterrupt:
        raise Interrupted("interrupted before training began; nothing was written") from None
