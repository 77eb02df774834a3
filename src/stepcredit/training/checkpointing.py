"""Saves the state of a run, on schedule and when the run stops, and resumes from it."""

from __future__ import annotations

import heapq
import shlex
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from stepcredit.config import TrainConfig
from stepcredit.distributed.process_group import ProcessGroup
from stepcredit.errors import InputError, OutOfMemoryError, ResumableError, RewardError
from stepcredit.runs import checkpoint
from stepcredit.runs.checkpoint import Checkpoint, load_newest
from stepcredit.runs.directory import RunDirectory, changed_versions
from stepcredit.runs.progress import Progress
from stepcredit.training.state import TrainingState
from stepcredit.utils.files import sweep
from stepcredit.utils.memory import out_of_memory
from stepcredit.utils.signals import finished_first


class Checkpointer:
    """Saves and restores the state of a run in its directory.

    The state changes only inside `uninterrupted`. If the run stops anywhere else, a checkpoint of it is saved.
    """

    def __init__(self, run: RunDirectory, state: TrainingState, progress: Progress, processes: ProcessGroup) -> None:
        self._run = run
        self._state = state
        self._progress = progress
        self._processes = processes
        self._intact = True  # whether the state is the one after the finished epochs
        self._saved: int | None = None  # the epoch of the newest checkpoint

    def save(self) -> None:
        """Write a checkpoint and delete those that are neither among the newest nor among the best."""
        captured = self._state.capture()
        self._processes.run_on_main(lambda: self._write(captured))
        self._saved = self._state.finished_epochs

    def resume(self) -> None:
        """Restore the newest valid checkpoint of the run and delete the metrics written after it.

        Raises:
            InputError: there is no checkpoint, it belongs to another run, or it has more epochs than `train.epochs`.
        """
        folder, saved = self._load_newest()
        epochs = self._state.config.train.epochs
        if saved.epoch > epochs:
            raise InputError(
                f"{self._run.path} has already finished {saved.epoch} epochs, but train.epochs is {epochs}: set it to "
                f"{saved.epoch} or more"
            )
        self._processes.run_on_all(lambda: self._state.restore(saved, str(folder)))
        self._saved = saved.epoch
        changed = changed_versions(saved.state.get("versions"))
        if changed:
            self._progress.note(f"resuming with other package versions, which may round differently: {changed}")
        self._processes.run_on_main(lambda: self._tidy(saved.epoch))

    @contextmanager
    def save_on_exit(self) -> Iterator[None]:
        """Save a checkpoint of the finished epochs if the body stops with an error and there is none yet."""
        try:
            yield
        except BaseException:
            if self._intact and self._saved != self._state.finished_epochs:
                with suppress(OSError):  # the user should see the original error, which may be the same
                    self._save_alone()
            raise

    @contextmanager
    def uninterrupted(self) -> Iterator[None]:
        """For the part of an epoch in which the state changes: signals take effect when the body has finished.

        If the body fails, the newest checkpoint on disk is what is left of the run.
        """
        message = "stopping after this epoch's updates; press Ctrl-C again to stop now"
        with finished_first(lambda: self._progress.note(message)):
            self._intact = False
            yield
            self._intact = True

    @contextmanager
    def located(self, where: str) -> Iterator[None]:
        """Add to errors that can be resumed from `where` they happened and the command that resumes the run."""
        resume = how_to_resume(self._run.path, self._state.config)
        try:
            yield
        except RewardError as error:
            raise RewardError(f"{where}: {error}; fix this, then resume with: {resume}") from error
        except ResumableError as error:
            raise type(error)(f"{where}: {error}, resume with: {f'{resume} {error.overrides}'.strip()}") from error
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            doing = "sampling or decoding" if self._intact else "the optimizer's step"
            raise OutOfMemoryError(
                f"{where}: out of memory in {doing}: free memory or lower sample.batch, then resume with: {resume}"
            ) from error

    def _load_newest(self) -> tuple[Path, Checkpoint]:
        """The newest intact checkpoint. Rank 0 finds it, because it renames damaged ones; the others then read it."""
        root, is_main = self._run.checkpoint_root, self._processes.is_main
        newest = self._processes.run_on_all(lambda: load_newest(root, self._progress.note) if is_main else None)

        def folder_of_newest() -> Path:
            if newest is None:
                raise InputError(f"{self._run.path} holds no checkpoint to resume from")
            return newest[0]

        folder = self._processes.run_on_main(folder_of_newest)
        return folder, self._processes.run_on_all(lambda: newest[1] if newest else checkpoint.load(folder))

    def _tidy(self, epoch: int) -> None:
        """Delete temporary files, and the metrics recorded after `epoch`."""
        sweep(self._run.path)
        self._run.truncate_metrics(epoch)

    def _save_alone(self) -> None:
        """Save without the other ranks, which may be gone. Not possible if they hold parts of the state."""
        if self._processes.is_main and not self._processes.has_sharded_state:
            self._write(self._state.capture())

    def _write(self, captured: Checkpoint) -> None:
        asked = self._state.config.run
        best = self._best(asked.keep_best)
        checkpoint.save(self._run.checkpoint_root, captured, asked.keep_checkpoints, best)

    def _best(self, count: int) -> list[int]:
        """The epochs of the `count` checkpoints with the best mean reward.

        The reward that an epoch records is that of the checkpoint before it, which its images were sampled with.
        """
        scores = {row["epoch"] - 1: row.get("reward_mean") for row in self._run.metrics()}
        there = map(checkpoint.epoch_of, checkpoint.folders(self._run.checkpoint_root))
        known = {epoch: score for epoch in there if isinstance(score := scores.get(epoch), float)}
        return heapq.nlargest(count, known, key=lambda epoch: known[epoch])


def how_to_resume(run: Path, config: TrainConfig) -> str:
    """The command that resumes a run, or the Python expression if the run needs Python objects."""
    if config.python_objects:
        return f"Trainer(..., output_dir={str(run)!r}).resume() in Python, with the same objects"
    return f"stepcredit train --resume --run {shlex.quote(str(run))}"
