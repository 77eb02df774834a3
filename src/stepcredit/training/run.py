"""Starts a run or goes on with one, and leaves a run directory that tells how it went."""

from __future__ import annotations

import math
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from stepcredit.algorithms import build_algorithm
from stepcredit.algorithms.minibatch import largest_update
from stepcredit.config import TrainConfig
from stepcredit.credit import build_credit
from stepcredit.distributed.deepspeed import stage_three_as_fsdp
from stepcredit.distributed.process_group import ProcessGroup, gloo_errors_as_process_lost, init_process_group
from stepcredit.errors import InputError, Interrupted, ResumableError, RewardError, StepcreditError
from stepcredit.plugins import load_plugins
from stepcredit.prompts import load_prompts
from stepcredit.report import write_report
from stepcredit.rewards import build_reward
from stepcredit.runs import checkpoint
from stepcredit.runs.directory import RunDirectory
from stepcredit.runs.progress import ConsoleProgress, Progress
from stepcredit.training.checkpointing import resume_command
from stepcredit.training.parts import Parts, require_noise
from stepcredit.training.trainer import TrainingLoop
from stepcredit.types import Prompt
from stepcredit.utils.files import locked

if TYPE_CHECKING:
    from stepcredit.policy.pipeline import PipelinePolicy

PATIENCE = 600.0
"""Seconds beside `reward.timeout` that processes wait for one another."""


def start_run(config: TrainConfig, path: Callable[[], Path]) -> None:
    """A new run in what `path` gives, asked once. Nothing of one that cannot begin is left behind."""
    config = stage_three_as_fsdp(config)
    with _joined(config) as processes:
        directory = RunDirectory(processes.run_on_main(path))
        trainer = _trainer(config, directory, processes)

        def create() -> None:
            RunDirectory.create(directory.path, trainer.config, ["stepcredit", *sys.argv[1:]])

        processes.run_on_main(create)
        with _alone(directory, processes), _discarded_unless_begun(trainer):
            _train(trainer)


def resume_run(config: TrainConfig, directory: RunDirectory) -> None:
    """Go on with the run in `directory` under `config`, which becomes its configuration."""
    config = stage_three_as_fsdp(config)
    with _joined(config) as processes, _alone(directory, processes):
        trainer = _trainer(config, directory, processes)
        with _writable(directory):
            trainer.resume()
            processes.run_on_main(lambda: _kept(config, directory))  # the others may find it kept already
        _train(trainer)


def _kept(config: TrainConfig, directory: RunDirectory) -> None:
    if config != directory.config:
        directory.rewrite_config(config)


@contextmanager
def _joined(config: TrainConfig) -> Iterator[ProcessGroup]:
    """The processes of the run. What ends it is told once: by this one if no other knows of it."""
    timeout = None if config.reward.timeout is None else config.reward.timeout + PATIENCE
    cpu = config.model.device == "cpu"
    processes = init_process_group(config.run.processes, cpu=cpu, sharded=config.model.shard, timeout=timeout)
    try:
        with gloo_errors_as_process_lost():
            yield processes
    except StepcreditError as error:
        if processes.is_main or processes.error_is_shared or isinstance(error, Interrupted):
            raise
        error.args = (f"process {processes.rank}: {error}",)
        error.show_on_every_rank = True
        raise
    finally:
        processes.destroy()


@contextmanager
def _alone(directory: RunDirectory, processes: ProcessGroup) -> Iterator[None]:
    """No other command trains in `directory` meanwhile; one that finds it taken leaves it as it is."""
    with ExitStack() as held:

        def hold() -> None:
            try:
                held.enter_context(locked(directory.path))
            except BlockingIOError:
                raise InputError(
                    f"{directory.path} is in use: another command is training there; wait for it or end it"
                ) from None

        with _writable(directory):
            processes.run_on_main(hold)
        yield


def _trainer(config: TrainConfig, directory: RunDirectory, processes: ProcessGroup) -> TrainingLoop:
    """The trainer of this process. An error on any process is raised on all."""
    return processes.run_on_all(lambda: _built(config, directory, processes))


def _built(config: TrainConfig, directory: RunDirectory, processes: ProcessGroup) -> TrainingLoop:
    """Everything that a run needs, what is quick to refuse first."""
    load_plugins(config.run.plugins)
    prompts = load_prompts(config.prompts.source)
    credit, reward = build_credit(config.credit, config.run.seed), build_reward(config.reward)
    algorithm = build_algorithm(config.train)
    require_noise(config.train.algorithm, algorithm.needs, config.sample)

    from stepcredit.policy.adapters import denoiser_name  # diffusers takes longest to import
    from stepcredit.policy.loading import load_policy
    from stepcredit.utils.logging import quiet_libraries

    quiet_libraries()
    policy = load_policy(config)
    config = _measured(config, policy, prompts, processes)
    full = config.model.adapter == "full"
    weights_dir = directory.path / denoiser_name(policy.pipeline) if full else directory.lora_dir
    progress = ConsoleProgress(config.train.epochs) if processes.is_main else Progress()
    parts = Parts(policy, reward, credit, algorithm, prompts)
    return TrainingLoop(config, parts, directory, progress=progress, weights_dir=weights_dir, processes=processes)


def _measured(
    config: TrainConfig, policy: PipelinePolicy, prompts: Sequence[Prompt], processes: ProcessGroup
) -> TrainConfig:
    """`config` with a number for `train.microbatch: auto`."""
    if config.train.microbatch != "auto":
        return config
    from stepcredit.policy.checks.doctor import fitting_microbatch

    images = config.images_per_epoch or len(prompts) * config.sample.images_per_prompt
    partition = -(-images // processes.world_size)
    fitting = min(processes.all_gather(fitting_microbatch(policy, partition, largest_update(config.train, partition))))
    return config.model_copy(update={"train": config.train.model_copy(update={"microbatch": fitting})})


def _train(trainer: TrainingLoop) -> None:
    directory, progress = trainer.run, trainer.progress
    try:
        with _writable(directory), progress, _reported(trainer):
            progress.start(trainer.finished_epochs)
            progress.note(_opening(trainer))
            weights = trainer.train()
    except KeyboardInterrupt:
        raise Interrupted(_interruption(directory)) from None
    progress.note(_closing(trainer, weights))


@contextmanager
def _discarded_unless_begun(trainer: TrainingLoop) -> Iterator[None]:
    """Take the new run directory away if there is nothing in it to go on with: `create` had found it empty."""
    try:
        yield
    except (RewardError, ResumableError, Interrupted):  # the run goes on once that is mended
        if not checkpoint.folders(trainer.run.checkpoint_root):
            _discard(trainer)
        raise
    except InputError:
        if trainer.finished_epochs == 0:
            _discard(trainer)
        raise


def _discard(trainer: TrainingLoop) -> None:
    if trainer.processes.is_main:
        shutil.rmtree(trainer.run.path, ignore_errors=True)


@contextmanager
def _writable(directory: RunDirectory) -> Iterator[None]:
    """A full disk, or a folder that is closed or gone, is a line and not a traceback."""
    try:
        yield
    except OSError as error:
        reason = (error.strerror or str(error)) + (f" ({error.filename})" if error.filename else "")
        kept = checkpoint.folders(directory.checkpoint_root)
        on = f"go on with: {resume_command(directory.path)}" if kept else "nothing was kept: choose another --run"
        raise ResumableError(
            f"cannot write the run directory {directory.path}: {reason}; make room there; {on}"
        ) from error


@contextmanager
def _reported(trainer: TrainingLoop) -> Iterator[None]:
    """Write the report however the run ends."""
    try:
        yield
    except BaseException:
        with suppress(Exception):  # the run's own error is the one to be told
            _report(trainer)
        raise
    _report(trainer)


def _report(trainer: TrainingLoop) -> None:
    if trainer.processes.is_main:
        write_report(trainer.run.path)


def _interruption(directory: RunDirectory) -> str:
    kept = checkpoint.folders(directory.checkpoint_root)
    if not kept:
        return "interrupted before the first checkpoint; nothing was kept"
    return f"interrupted; kept {kept[-1]}, go on with: {resume_command(directory.path)}"


def _opening(trainer: TrainingLoop) -> str:
    config, finished = trainer.config, trainer.finished_epochs
    start = f"resuming after epoch {finished}" if finished else "training"
    images, processes = len(trainer.draw_prompts(epoch=0)), trainer.processes
    parts = f", weights in parts on {processes.world_size} processes by FSDP2" if processes.sharded else ""
    return (
        f"{start}: {config.model.path}, reward {config.reward.name}, credit {config.credit.name}, "
        f"{images} images x {config.sample.steps} steps an epoch{parts}, in {trainer.run.path}"
    )


def _closing(trainer: TrainingLoop, weights: Path) -> str:
    directory = trainer.run
    rows = directory.metrics()
    if not rows:
        return f"nothing to train: train.epochs is 0; {directory.path} holds the starting grid"
    grids = sorted((directory.path / "samples").glob("epoch_*.png"))
    first, last = (math.nan if row["reward_mean"] is None else row["reward_mean"] for row in (rows[0], rows[-1]))
    prompt = shlex.quote(trainer.parts.prompts[0].text)
    return "\n".join(
        [
            f"reward {first:.3f} -> {last:.3f} after {rows[-1]['reward_queries']} reward queries",
            f"  pictures  {grids[0]}  (before)",
            f"            {grids[-1]}  (after)",
            f"  curve     {directory.report_path}",
            f"  weights   {weights}",
            f"  sample    stepcredit sample {shlex.quote(str(directory.path))} --prompt {prompt} --out samples",
        ]
    )
