"""What an update does about memory that runs out and gradients that are not finite."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

from stepcredit.errors import OutOfMemoryError, ResumableError
from stepcredit.utils.memory import free_memory, out_of_memory

Result = TypeVar("Result")
_REMEDY = "start a new run with a smaller train.learning_rate, or, if the cause was something else"


class Recovery:
    """Recovers from memory that runs out and from gradients that are not finite, or raises ResumableError.

    Args:
        max_skipped: how many updates in a row may be skipped; None means no limit.
        note: called with a line for the user.
        halves: whether the micro-batch may be halved. False for sharded weights, where every rank has to make the same
            forwards and one rank alone cannot repeat its own.

    Attributes:
        microbatch: the micro-batch after it was halved; None while memory has not run out.
        skipped_in_a_row: updates skipped since the last update that was made.
    """

    def __init__(
        self, max_skipped: int | None = None, note: Callable[[str], None] = lambda text: None, *, halves: bool = True
    ) -> None:
        self.microbatch: int | None = None
        self.skipped_in_a_row = 0
        self._max_skipped = max_skipped
        self._note = note
        self._halves = halves

    def size(self, microbatch: int) -> int:
        """The micro-batch to use when `microbatch` is configured."""
        return microbatch if self.microbatch is None else min(self.microbatch, microbatch)

    def retry_out_of_memory(
        self, attempt: Callable[[int], Result], undo: Callable[[], None], microbatch: int
    ) -> Result:
        """Call `attempt` with the micro-batch. If memory runs out, halve it for the rest of the run and try once more.

        Args:
            attempt: called with the micro-batch.
            undo: called before the second attempt.

        Raises:
            OutOfMemoryError: memory runs out again, the micro-batch is 1, or it may not be halved.
        """
        size = self.size(microbatch)
        try:
            return attempt(size)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            if size == 1:
                raise OutOfMemoryError(
                    "out of memory in training with train.microbatch=1, the smallest; less memory is needed with "
                    "model.gradient_checkpointing",
                    "model.gradient_checkpointing=true",
                ) from error
            if not self._halves:
                raise OutOfMemoryError(
                    f"out of memory in training with a micro-batch of {size}; it is not halved under model.shard",
                    f"train.microbatch={size // 2}",
                ) from error
            if self.microbatch is not None:
                raise OutOfMemoryError(
                    f"out of memory in training although train.microbatch was already halved to {size}",
                    f"train.microbatch={size // 2}",
                ) from error
        self.microbatch = size // 2  # after `except`, because the error keeps every tensor of the attempt alive
        undo()
        free_memory()
        self._note(
            f"out of memory in training with a micro-batch of {size}: this update is repeated, and all others made, "
            f"with {self.microbatch} (train.microbatch={self.microbatch}); sampling keeps its batch, so replays are "
            "equal within rounding only"
        )
        return self.retry_out_of_memory(attempt, undo, microbatch)

    def stepped(self) -> None:
        """Record that an update was made."""
        self.skipped_in_a_row = 0

    def skipped(self, scaler: torch.amp.GradScaler) -> None:
        """Record that an update was not made because its loss or gradient is not finite.

        Updates that a loss scaler skips while it searches for its scale do not count.

        Raises:
            ResumableError: more than `max_skipped` updates in a row were skipped.
        """
        if scaler.is_enabled() and scaler.get_scale() > 1:
            return
        self.skipped_in_a_row += 1
        if self._max_skipped is not None and self.skipped_in_a_row > self._max_skipped:
            raise ResumableError(
                f"skipped {self.skipped_in_a_row} updates in a row because their loss or gradient is not finite "
                f"(train.max_skipped_updates={self._max_skipped}): {_REMEDY}"
            )


def require_finite(what: str, *tensors: torch.Tensor) -> None:
    """ResumableError naming `what` if any of the tensors has NaN or infinity. Synchronizes with the device once."""
    found = [tensor.isfinite().all() for tensor in tensors if tensor.is_floating_point()]
    if found and not torch.stack(found).all():
        raise ResumableError(f"{what} are not finite: {_REMEDY}")
