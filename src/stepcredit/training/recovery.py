"""What an update does about memory that runs out and gradients that are not finite."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import TypeVar

import torch

from stepcredit.errors import OutOfMemoryError, ResumableError

Result = TypeVar("Result")
_REMEDY = "a new run with a smaller train.learning_rate may do better; if something else was the cause"
_MEMORY = ("not enough memory", "DefaultCPUAllocator", "out of memory", "STATUS_ALLOC_FAILED")


class Recovery:
    """Keeps an update going where it can, and raises ResumableError where it cannot.

    Args:
        most_skipped: updates that may be skipped in a row; None is no end of them.
        note: is told of what was done.
        halves: whether the micro-batch may be halved; not where a forward takes all processes, of which one alone would
            begin again.

    Attributes:
        microbatch: what the micro-batch was halved to, None as long as memory has not run out.
        skipped_in_a_row: updates skipped since the last that was made.
    """

    def __init__(
        self, most_skipped: int | None = None, note: Callable[[str], None] = lambda text: None, *, halves: bool = True
    ) -> None:
        self.microbatch: int | None = None
        self.skipped_in_a_row = 0
        self._most_skipped = most_skipped
        self._note = note
        self._halves = halves

    def size(self, microbatch: int) -> int:
        """The micro-batch to use where `microbatch` was asked for."""
        return microbatch if self.microbatch is None else min(self.microbatch, microbatch)

    def retry_out_of_memory(
        self, attempt: Callable[[int], Result], undo: Callable[[], None], microbatch: int
    ) -> Result:
        """`attempt` with a micro-batch; if memory runs out `undo`, then once more, and from now on, with half of it.

        Raises:
            OutOfMemoryError: memory runs out again, a micro-batch of one is too large, or it may not be halved.
        """
        size = self.size(microbatch)
        try:
            return attempt(size)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            if size == 1:
                raise OutOfMemoryError(
                    "out of memory in training with train.microbatch=1, the smallest; less is needed with "
                    "model.gradient_checkpointing",
                    "model.gradient_checkpointing=true",
                ) from error
            if not self._halves:
                raise OutOfMemoryError(
                    f"out of memory in training with a micro-batch of {size}, which is not halved with model.shard",
                    f"train.microbatch={size // 2}",
                ) from error
            if self.microbatch is not None:
                raise OutOfMemoryError(
                    f"out of memory in training with train.microbatch halved to {size} already",
                    f"train.microbatch={size // 2}",
                ) from error
        self.microbatch = size // 2  # out of `except`, where the error keeps every tensor of the attempt alive
        undo()
        free_memory()
        self._note(
            f"out of memory in training with a micro-batch of {size}: this update is done again, and all others are "
            f"done, with {self.microbatch} (as train.microbatch={self.microbatch}); sampling stays at its batch, so "
            "that first ratios are 1 within rounding only"
        )
        return self.retry_out_of_memory(attempt, undo, microbatch)

    def stepped(self) -> None:
        """An update was made."""
        self.skipped_in_a_row = 0

    def skipped(self, scaler: torch.amp.GradScaler) -> None:
        """An update was not made, because its loss or gradient is not finite.

        While a loss scaler still finds its scale that is its way to do so, and does not count.

        Raises:
            ResumableError: it was one too many in a row.
        """
        if scaler.is_enabled() and scaler.get_scale() > 1:
            return
        self.skipped_in_a_row += 1
        if self._most_skipped is not None and self.skipped_in_a_row > self._most_skipped:
            raise ResumableError(
                f"updates skipped in a row because their loss or gradient is not finite: {self.skipped_in_a_row} "
                f"(train.max_skipped_updates={self._most_skipped}); {_REMEDY}"
            )


def out_of_memory(error: BaseException) -> bool:
    """Whether this is what PyTorch, on any device, or Python raises when memory runs out."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _MEMORY)


def free_memory() -> None:
    """Give back to the device what nothing refers to any more."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def require_finite(what: str, *tensors: torch.Tensor) -> None:
    """Raises ResumableError that says that `what` is not finite, if any of the tensors has NaN or infinity. Waits once."""
    found = [tensor.isfinite().all() for tensor in tensors if tensor.is_floating_point()]
    if found and not torch.stack(found).all():
        raise ResumableError(f"{what} are not finite; {_REMEDY}")
