"""Start a run or resume one in its run directory."""

from __future__ import annotations

import atexit
import json
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from torch import distributed

from stepcredit.config import TrainConfig
from stepcredit.distributed.deepspeed import stage_three_as_fsdp
from stepcredit.distributed.process_group import (
    ProcessGroup,
    destroy_process_group,
    gloo_errors_as_process_lost,
    init_process_group,
)
from stepcredit.errors import InputError, Interrupted, ResumableError, RewardError, StepcreditError
from stepcredit.evaluation.long_prompts import long_prompt_notes
from stepcredit.evaluation.prompt_sets import trained_prompts
from stepcredit.report import write_report
from stepcredit.runs import checkpoint
from stepcredit.runs.directory import RunDirectory
from stepcredit.runs.history import append_event, prompts_digest
from stepcredit.runs.progress import Progress
from stepcredit.training import messages
from stepcredit.training.assembly import NO_OBJECTS, Objects, assemble, measure_microbatch
from stepcredit.training.callbacks import Callback
from stepcredit.training.checkpointing import how_to_resume
from stepcredit.training.inputs import require_same_inputs
from stepcredit.training.result import TrainResult
from stepcredit.training.resume import run_changes
from stepcredit.training.starting_weights import load_weights
from stepcredit.training.trainer import TrainingLoop
from stepcredit.types import Prompt
from stepcredit.utils.files import locked, write_atomically

PATIENCE = 600.0
"""Seconds that ranks wait for each other, in addition to `reward.timeout`."""

MakeProgress = Callable[[int], Progress]
"""Makes the progress display of a run; the argument is the number of epochs."""


def start_run(
    config: TrainConfig,
    path: Callable[[], Path],
    objects: Objects = NO_OBJECTS,
    *,
    weights: Path | None = None,
    callbacks: Sequence[Callback] = (),
    progress: MakeProgress | None = None,
    command: Sequence[str] | None = None,
    keep_processes: bool = False,
) -> TrainResult:
    """Train in a new run directory. A run that fails before its first epoch removes the directory again.

    Args:
        path: returns the run directory; called once, on rank 0.
        objects: Python objects to use instead of what `config` names.
        weights: a run directory; training starts from the weights of its newest checkpoint.
        callbacks: called after every epoch.
        progress: makes the progress display of rank 0; by default there is none.
        command: what environment.json records as the command; the command line by default.
        keep_processes: stay connected to the other ranks until the program exits, so that it can start another run.
            torchrun's processes cannot connect twice.

    Raises:
        StepcreditError: the run cannot be started, or has stopped.
    """
    config = stage_three_as_fsdp(config)
    with _process_group(config, keep_processes) as processes:
        directory = RunDirectory(processes.run_on_main(path))
        config = _record_prompts(config, directory, objects)
        loop = _build_loop(config, directory, objects, callbacks, progress, processes)
        started_with = {"inputs": _inputs(loop)}
        if weights is not None:
            started_with["from"] = processes.run_on_all(lambda: load_weights(loop.policy, weights))

        def create() -> None:
            RunDirectory.create(directory.path, loop.config, command or ["stepcredit", *sys.argv[1:]], started_with)
            if config.prompts.source == str(directory.prompts_path) and objects.prompts is not None:
                write_atomically(directory.prompts_path, _json_lines(objects.prompts).encode())

        processes.run_on_main(create)
        with _logged_in(directory), _lock(directory, config, processes), _discard_unless_begun(loop):
            return _train(loop)


def resume_run(
    config: TrainConfig,
    directory: RunDirectory,
    objects: Objects = NO_OBJECTS,
    *,
    allow_change: bool = False,
    callbacks: Sequence[Callback] = (),
    progress: MakeProgress | None = None,
    keep_processes: bool = False,
) -> TrainResult:
    """Resume the run in `directory` from its newest checkpoint. `config` replaces its config.yaml.

    Changes of the configuration are recorded in history.jsonl. The other arguments and errors are those of `start_run`.

    Args:
        allow_change: accept other prompts or another model than those that the run had before.
    """
    config = stage_three_as_fsdp(config)
    with (
        _process_group(config, keep_processes) as processes,
        _logged_in(directory),
        _lock(directory, config, processes),
    ):
        loop = _build_loop(config, directory, objects, callbacks, progress, processes)
        inputs = _inputs(loop)
        changed = processes.run_on_all(lambda: require_same_inputs(directory.path, inputs, allow_change))
        with _report_write_errors(directory, config):
            loop.resume()
            processes.run_on_main(lambda: _update_config(config, loop, changed))
        return _train(loop)


def _build_loop(
    config: TrainConfig,
    directory: RunDirectory,
    objects: Objects,
    callbacks: Sequence[Callback],
    make_progress: MakeProgress | None,
    processes: ProcessGroup,
) -> TrainingLoop:
    """Every rank builds its own loop. An error on one rank is raised on all of them."""

    found = processes.run_on_all(lambda: assemble(config, directory, objects))
    measured = measure_microbatch(found, processes)
    epochs = measured.train.epochs
    return processes.run_on_all(
        lambda: TrainingLoop(
            measured,
            found.parts,
            directory,
            progress=make_progress(epochs) if make_progress and processes.is_main else Progress(),
            weights_dir=found.weights_dir,
            processes=processes,
            callbacks=callbacks,
        )
    )


def _record_prompts(config: TrainConfig, directory: RunDirectory, objects: Objects) -> TrainConfig:
    """Record prompts that were passed in Python as a file in the run directory, if JSON can hold them."""
    if objects.prompts is None or not _fits_json(objects.prompts):
        return config
    source = str(directory.prompts_path)
    return config.model_copy(update={"prompts": config.prompts.model_copy(update={"source": source})})


def _fits_json(prompts: Sequence[Prompt]) -> bool:
    try:
        return all(json.loads(json.dumps(prompt.metadata)) == prompt.metadata for prompt in prompts)
    except (TypeError, ValueError):
        return False


def _json_lines(prompts: Sequence[Prompt]) -> str:
    return "".join(json.dumps({"prompt": prompt.text, **prompt.metadata}) + "\n" for prompt in prompts)


def _inputs(loop: TrainingLoop) -> dict[str, str | None]:
    """Digests of the prompts and of the model, whose paths may change."""
    from stepcredit.policy.fingerprint import model_digest  # diffusers takes seconds to import

    return {"prompts": prompts_digest(loop.parts.prompts), "model": model_digest(loop.policy)}


def _update_config(config: TrainConfig, loop: TrainingLoop, inputs: Mapping[str, Any]) -> None:
    """Write the new configuration, and record what has changed in the history of the run."""
    directory = loop.run
    changes = run_changes(directory.config, config)
    if not changes and not inputs:
        return
    directory.rewrite_config(config)
    rows = [asdict(change) for change in changes]
    append_event(
        directory.path,
        {"event": "resumed", "epoch": loop.finished_epochs, "changes": rows, **({"inputs": inputs} if inputs else {})},
    )
    described = [str(change) for change in changes if change.affects_results] + [f"other {name}" for name in inputs]
    if described:
        loop.progress.warn(f"resuming with changes that affect the results: {', '.join(described)}")


@contextmanager
def _process_group(config: TrainConfig, keep: bool) -> Iterator[ProcessGroup]:
    """Join the ranks of the run. An error that only this rank knows about names the rank."""
    timeout = None if config.reward.timeout is None else config.reward.timeout + PATIENCE
    cpu = config.model.device == "cpu"
    processes = init_process_group(
        config.run.processes,
        cpu=cpu,
        sharded=config.model.shard,
        timeout=timeout,
        connect_timeout=config.run.connect_timeout,
    )
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
        if keep:
            _destroy_at_exit()
        else:
            processes.destroy()


@cache
def _destroy_at_exit() -> None:
    @atexit.register
    def _destroy() -> None:
        if distributed.is_initialized():
            destroy_process_group()


@contextmanager
def _logged_in(directory: RunDirectory) -> Iterator[None]:
    """The command line writes the tracebacks of errors in the block into the run directory, if it still exists then."""
    try:
        yield
    except StepcreditError as error:
        error.log_dir = directory.path
        raise


@contextmanager
def _lock(directory: RunDirectory, config: TrainConfig, processes: ProcessGroup) -> Iterator[None]:
    """Keep other commands from training in `directory`.

    Raises:
        InputError: another command already trains there.
    """
    with ExitStack() as stack:

        def acquire() -> None:
            try:
                stack.enter_context(locked(directory.path))
            except BlockingIOError:
                raise InputError(
                    f"{directory.path} is in use: another command is training there; wait until it ends, or stop it"
                ) from None

        with _report_write_errors(directory, config):
            processes.run_on_main(acquire)
        yield


def _train(loop: TrainingLoop) -> TrainResult:
    directory, progress = loop.run, loop.progress
    try:
        with _report_write_errors(directory, loop.config), progress, _write_report(loop):
            progress.start(loop.finished_epochs)
            progress.note(messages.opening(loop))
            for note in (messages.settings(loop), messages.unusual_settings(loop)):
                if note is not None:
                    progress.note(note)
            progress.note(messages.prompts_used(loop))
            _note_long_prompts(loop)
            weights = loop.train()
    except KeyboardInterrupt:
        raise Interrupted(messages.interruption(loop)) from None
    result = loop.processes.run_on_main(lambda: _result(loop, weights))
    progress.note(messages.closing(loop, result))
    return result


def _result(loop: TrainingLoop, weights: Path) -> TrainResult:
    grids = sorted((loop.run.path / "samples").glob("epoch_*.png"))
    before, after = (grids[0], grids[-1]) if grids else (None, None)
    return TrainResult(loop.run.path, loop.run.metrics(), weights, before, after, loop.stopped)


@contextmanager
def _discard_unless_begun(loop: TrainingLoop) -> Iterator[None]:
    """Remove a new run directory if the run fails before there is anything to resume from."""
    try:
        yield
    except (RewardError, ResumableError, Interrupted):
        if not checkpoint.folders(loop.run.checkpoint_root):
            _discard(loop)
        raise
    except InputError:
        if loop.finished_epochs == 0:
            _discard(loop)
        raise


def _discard(loop: TrainingLoop) -> None:
    if loop.processes.is_main:
        shutil.rmtree(loop.run.path, ignore_errors=True)


@contextmanager
def _report_write_errors(directory: RunDirectory, config: TrainConfig) -> Iterator[None]:
    """Report a full disk or an unwritable folder as a one-line error that says how to resume."""
    try:
        yield
    except OSError as error:
        reason = (error.strerror or str(error)) + (f" ({error.filename})" if error.filename else "")
        saved = checkpoint.folders(directory.checkpoint_root)
        remedy = f"then resume with: {how_to_resume(directory.path, config)}" if saved else "or choose another folder"
        raise ResumableError(
            f"cannot write the run directory {directory.path}: {reason}; make it writable, {remedy}"
        ) from error


@contextmanager
def _write_report(loop: TrainingLoop) -> Iterator[None]:
    """Write the report when the run ends, even if it ends with an error."""

    def write() -> None:
        if loop.processes.is_main:
            write_report(loop.run.path)

    try:
        yield
    except BaseException:
        with suppress(Exception):  # it must not hide the run's own error
            write()
        raise
    write()


def _note_long_prompts(loop: TrainingLoop) -> None:
    """Warn of prompts of which the model or the reward ignores the end. Only rank 0 counts."""
    if not loop.processes.is_main:
        return
    prompts = trained_prompts(loop.config, loop.parts.prompts)
    for note in long_prompt_notes(loop.policy, prompts, [loop.parts.reward]):
        loop.progress.warn(note)
