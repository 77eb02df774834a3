"""`stepcredit train`: from a recipe, or a run to resume, to a finished run directory."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from stepcredit import recipes
from stepcredit.config import TrainConfig
from stepcredit.credit import build_credit
from stepcredit.errors import InputError, Interrupted
from stepcredit.policy.loading import load_policy
from stepcredit.progress import ConsoleProgress
from stepcredit.prompts import load_prompts
from stepcredit.quiet import quiet_libraries
from stepcredit.report import write_report
from stepcredit.rewards import build_reward
from stepcredit.tracking import RunDirectory, config_differences, next_run_path
from stepcredit.trainer import Trainer

RUNS = Path("runs")
SAMPLE_PROMPT = "a red circle on a blue background"


def train(recipe: Sequence[str], overrides: Sequence[str], run: Path | None, resume: bool) -> None:
    """Train as the command line says; raises StepcreditError for everything a user can mend."""
    quiet_libraries()
    if len(recipe) > 1:
        raise InputError(f"give one recipe, not {len(recipe)}: {' '.join(recipe)}; overrides are section.key=value")
    name = recipe[0] if recipe else None
    if resume:
        directory = _reopen(name, overrides, run)
        config = directory.config
    else:
        config = recipes.load(name, overrides)
        directory = None
    trainer_parts = (load_policy(config), build_reward(config.reward), build_credit(config.credit))
    prompts = load_prompts(config.prompts.source)
    if directory is None:
        path = run or next_run_path(RUNS, Path(name or recipes.DEFAULT).stem)
        directory = RunDirectory.create(path, config, ["stepcredit", *sys.argv[1:]])
    with ConsoleProgress(config.train.epochs) as progress, directory, _terminable():
        trainer = Trainer(config, *trainer_parts, prompts, directory, progress)
        if resume:
            trainer.resume()
        progress.start(trainer.finished_epochs)
        progress.note(_opening(config, directory.path, trainer.finished_epochs))
        try:
            trainer.train()
        except KeyboardInterrupt:
            raise Interrupted(
                f"interrupted after epoch {trainer.finished_epochs}; go on with: "
                f"stepcredit train --resume --run {directory.path}"
            ) from None
        finally:
            write_report(directory.path)
        progress.note(_closing(directory))


def _reopen(recipe: str | None, overrides: Sequence[str], run: Path | None) -> RunDirectory:
    """The run to go on with. Of its configuration only train.epochs may change."""
    if run is None:
        runs = sorted(RUNS.glob("*/config.yaml"), key=lambda path: path.stat().st_mtime)
        if not runs:
            raise InputError(f"no run under {RUNS}/ to resume; name one with --run")
        run = runs[-1].parent
    directory = RunDirectory.open(run)
    before = directory.config
    asked = recipes.load(recipe or directory.config_path, overrides)
    changed = config_differences(before.model_dump(), asked.model_dump())
    other = [line for line in changed if not line.startswith("train.epochs:")]
    if other:
        raise InputError(
            f"{run} holds a different run ({'; '.join(other[:3])}); only train.epochs may change on resume"
        )
    if changed:
        directory.rewrite_config(asked)
    return directory


def _opening(config: TrainConfig, path: Path, finished: int) -> str:
    images = config.images_per_epoch or "all prompts x images_per_prompt"
    start = f"resuming after epoch {finished}" if finished else "training"
    return (
        f"{start}: {config.model.path}, reward {config.reward.name}, credit {config.credit.name}, "
        f"{images} images x {config.sample.steps} steps an epoch, in {path}"
    )


def _closing(directory: RunDirectory) -> str:
    rows = directory.metrics()
    if not rows:
        return f"nothing to train: train.epochs is 0; {directory.path} holds the starting grid"
    first, last = rows[0]["reward_mean"], rows[-1]["reward_mean"]
    grids = sorted((directory.path / "samples").glob("epoch_*.png"))
    return "\n".join(
        [
            f"reward {first:.3f} -> {last:.3f} after {rows[-1]['reward_queries']} reward queries",
            f"  pictures  {grids[0]}  (before)",
            f"            {grids[-1]}  (after)",
            f"  curve     {directory.report_path}",
            f"  weights   {directory.lora_dir}",
            f"  sample    stepcredit sample {directory.path} --prompt '{SAMPLE_PROMPT}' --out samples",
        ]
    )


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM ends the run as Ctrl-C does."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
