"""What is kept of a run: checkpoints, whatever stops it, and the way back to them."""

from __future__ import annotations

import heapq
import shlex
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from stepcredit.distributed.process_group import ProcessGroup
from stepcredit.errors import InputError, OutOfMemoryError, ResumableError, RewardError
from stepcredit.runs import checkpoint
from stepcredit.runs.checkpoint import Checkpoint, newest_sound
from stepcredit.runs.directory import RunDirectory, changed_versions
from stepcredit.runs.progress import Progress
from stepcredit.training.recovery import out_of_memory
from stepcredit.training.state import TrainingState
from stepcredit.utils.files import sweep
from stepcredit.utils.signals import finished_first


class Checkpointer:
    """Keeps the state of a run in its directory.

    The state changes inside `uninterrupted` alone; whatever stops the run elsewhere leaves a checkpoint of it.
    """

    def __init__(self, run: RunDirectory, state: TrainingState, progress: Progress, processes: ProcessGroup) -> None:
        self._run = run
        self._state = state
        self._progress = progress
        self._processes = processes
        self._intact = True  # the state is that after its finished epochs
        self._saved: int | None = None  # the epoch of the newest checkpoint

    def save(self) -> None:
        """Write a checkpoint of the state; drop those that are neither among the newest nor among the best."""
        captured = self._state.capture()
        self._processes.run_on_main(lambda: self._write(captured))
        self._saved = self._state.finished_epochs

    def resume(self) -> None:
        """Go back to the newest sound checkpoint of the run, forgetting metrics written after it.

        Raises:
            InputError: there is none, it is of another run, or the run is longer already than it is to be.
        """
        folder, saved = self._found()
        epochs = self._state.config.train.epochs
        if saved.epoch > epochs:
            raise InputError(
                f"{self._run.path} has finished {saved.epoch} epochs already: "
                f"train.epochs={epochs} cannot take any back"
            )
        self._processes.run_on_all(lambda: self._state.restore(saved, str(folder)))
        self._saved = saved.epoch
        changed = changed_versions(saved.state.get("versions"))
        if changed:
            self._progress.note(f"resuming with other versions, which may round otherwise: {changed}")
        self._processes.run_on_main(lambda: self._tidy(saved.epoch))

    @contextmanager
    def save_on_exit(self) -> Iterator[None]:
        """Whatever stops what is inside: a checkpoint of the epochs that are finished, where there is none yet."""
        try:
            yield
        except BaseException:
            if self._intact and self._saved != self._state.finished_epochs:
                with suppress(OSError):  # what stopped the run is what the user is to hear, and may be the same
                    self._save_alone()
            raise

    @contextmanager
    def uninterrupted(self) -> Iterator[None]:
        """The state changes inside: a signal waits for the end of it, what fails leaves the newest checkpoint only."""
        told = "stopping when this epoch's updates are made; again: at once"
        with finished_first(lambda: self._progress.note(told)):
            self._intact = False
            yield
            self._intact = True

    @contextmanager
    def located(self, where: str) -> Iterator[None]:
        """Errors of which a run can be mended say `where` they came up and how to go on."""
        resume = resume_command(self._run.path)
        try:
            yield
        except RewardError as error:
            raise RewardError(f"{where}: {error}; mend it and go on with: {resume}") from error
        except ResumableError as error:
            raise type(error)(f"{where}: {error}, go on with: {f'{resume} {error.overrides}'.strip()}") from error
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            doing = "sampling or decoding" if self._intact else "the optimizer's step"
            raise OutOfMemoryError(
                f"{where}: out of memory in {doing}; free some, or lower sample.batch, and go on with: {resume}"
            ) from error

    def _found(self) -> tuple[Path, Checkpoint]:
        """What the main process finds to be the newest sound checkpoint; the others read it too."""
        read: list[Checkpoint] = []

        def newest() -> Path:
            found = newest_sound(self._run.checkpoint_root, self._progress.note)
            if found is None:
                raise InputError(f"{self._run.path} holds no checkpoint to resume from")
            read.append(found[1])
            return found[0]

        folder = self._processes.run_on_main(newest)
        self._processes.run_on_all(lambda: None if read else read.append(checkpoint.load(folder)))
        return folder, read[0]

    def _tidy(self, epoch: int) -> None:
        """Forget what was begun and recorded after `epoch`."""
        sweep(self._run.path)
        self._run.truncate_metrics(epoch)

    def _save_alone(self) -> None:
        """Save without a word to the other processes, which may be gone; not where they hold parts of it."""
        if self._processes.is_main and not self._processes.has_sharded_state:
            self._write(self._state.capture())

    def _write(self, captured: Checkpoint) -> None:
        asked = self._state.config.run
        best = self._best(asked.keep_best)
        checkpoint.save(self._run.checkpoint_root, captured, asked.keep_checkpoints, best)

    def _best(self, count: int) -> list[int]:
        """The epochs of the `count` checkpoints whose images scored best.

        The reward that an epoch records is that of the checkpoint before it, which its images were sampled with.
        """
        scores = {row["epoch"] - 1: row.get("reward_mean") for row in self._run.metrics()}
        there = map(checkpoint.epoch_of, checkpoint.found(self._run.checkpoint_root))
        known = {epoch: score for epoch in there if isinstance(score := scores.get(epoch), float)}
        return heapq.nlargest(count, known, key=lambda epoch: known[epoch])


def resume_command(run: Path) -> str:
    """What to type to go on with a run."""
    return f"stepcredit train --resume --run {shlex.quote(str(run))}"
