"""Recognizing errors of exhausted memory, and measuring memory."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from stepcredit.utils.memory import available_memory_bytes, out_of_memory, peak_memory_bytes

OUT_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"),
    MemoryError(),
    RuntimeError("[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"),
    RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
]


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=str)
def test_out_of_memory_errors_are_recognized(error: BaseException) -> None:
    assert out_of_memory(error)


def test_the_error_of_a_failed_cpu_allocation_is_recognized() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.int8)
    assert out_of_memory(caught.value)


@pytest.mark.parametrize("error", [RuntimeError("size mismatch"), ValueError("out of memory"), KeyboardInterrupt()])
def test_other_errors_are_not_out_of_memory(error: BaseException) -> None:
    assert not out_of_memory(error)


def test_peak_and_available_memory_are_plausible() -> None:
    assert 2**20 < peak_memory_bytes() < 2**50
    assert 0 < available_memory_bytes(torch.device("cpu")) < 2**50


@pytest.mark.parametrize(
    ("kind", "module"),
    [
        ("xpu", SimpleNamespace(mem_get_info=lambda device: (700, 1000))),
        ("mps", SimpleNamespace(recommended_max_memory=lambda: 1000, driver_allocated_memory=lambda: 300)),
    ],
    ids=["xpu", "mps"],
)
def test_memory_of_other_accelerators(kind: str, module: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, kind, module)
    assert available_memory_bytes(torch.device(kind)) == 700
