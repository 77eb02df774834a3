"""What an update does where memory runs out and gradients are not finite."""

from __future__ import annotations

import pytest
import torch

from stepcredit.errors import ResumableError
from stepcredit.training.recovery import Recovery, require_finite

PLAIN = torch.amp.GradScaler("cpu", enabled=False)
MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"),
    MemoryError(),
    RuntimeError("[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"),
    RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
]


class Attempt:
    """Needs a micro-batch of at most `fits`."""

    def __init__(self, fits: int, error: BaseException = MEMORY[0]) -> None:
        self.fits, self.error = fits, error
        self.log: list[int | str] = []

    def __call__(self, size: int) -> str:
        self.log.append(size)
        if size > self.fits:
            raise self.error
        return "done"

    def undo(self) -> None:
        self.log.append("undone")


def test_a_micro_batch_that_may_not_be_halved_is_an_error() -> None:
    recovery, attempt = Recovery(halves=False), Attempt(fits=4)
    with pytest.raises(ResumableError, match="micro-batch of 7") as stopped:
        recovery.retry_out_of_memory(attempt, attempt.undo, 7)
    assert attempt.log == [7] and stopped.value.overrides == "train.microbatch=3"


def test_a_micro_batch_is_halved_once_and_stays_so() -> None:
    notes: list[str] = []
    recovery, attempt = Recovery(note=notes.append), Attempt(fits=4)
    assert recovery.retry_out_of_memory(attempt, attempt.undo, 7) == "done"
    assert recovery.retry_out_of_memory(attempt, attempt.undo, 7) == "done"
    assert attempt.log == [7, "undone", 3, 3]
    assert recovery.microbatch == 3 and recovery.size(8) == 3 and recovery.size(2) == 2
    assert len(notes) == 1 and "with a micro-batch of 7" in notes[0] and "train.microbatch=3" in notes[0]


def test_the_error_suggests_half_of_the_halved_micro_batch() -> None:
    recovery, attempt = Recovery(), Attempt(fits=1)
    with pytest.raises(ResumableError, match=r"train\.microbatch.*halved to 4") as caught:
        recovery.retry_out_of_memory(attempt, attempt.undo, 8)
    assert caught.value.overrides == "train.microbatch=2"
    assert attempt.log == [8, "undone", 4]


def test_a_micro_batch_of_one_cannot_be_halved() -> None:
    recovery, attempt = Recovery(), Attempt(fits=0)
    with pytest.raises(ResumableError, match=r"train\.microbatch=1, the smallest"):
        recovery.retry_out_of_memory(attempt, attempt.undo, 1)
    assert attempt.log == [1] and recovery.microbatch is None


def test_other_errors_pass() -> None:
    recovery, attempt = Recovery(), Attempt(fits=1, error=RuntimeError("size mismatch"))
    with pytest.raises(RuntimeError, match="size mismatch"):
        recovery.retry_out_of_memory(attempt, attempt.undo, 8)
    assert attempt.log == [8] and recovery.microbatch is None


def test_skipped_updates_count_in_a_row() -> None:
    recovery = Recovery(max_skipped=2)
    for _ in range(3):
        recovery.skipped(PLAIN)
        recovery.skipped(PLAIN)
        recovery.stepped()
    recovery.skipped(PLAIN)
    recovery.skipped(PLAIN)
    with pytest.raises(ResumableError, match=r"3 .*train\.max_skipped_updates=2"):
        recovery.skipped(PLAIN)


def test_a_loss_scaler_may_find_its_scale_first() -> None:
    recovery = Recovery(max_skipped=0)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    scaler.scale(torch.ones(1))
    for scale in (4.0, 2.0):
        assert scaler.get_scale() == scale
        recovery.skipped(scaler)
        scaler.update(scale / 2)
    with pytest.raises(ResumableError):
        recovery.skipped(scaler)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_the_error_names_non_finite_tensors(value: float) -> None:
    require_finite("the weights", torch.ones(3), torch.tensor([1, 2]))
    require_finite("nothing")
    with pytest.raises(ResumableError, match=r"the weights are not finite.*train.learning_rate"):
        require_finite("the weights", torch.ones(3), torch.tensor([1.0, value]))
