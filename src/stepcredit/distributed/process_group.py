"""The processes that train one model together.

They are started by torchrun or accelerate and connected by accelerate over torch.distributed. A run that was started
without a launcher has one process. Python objects are exchanged over gloo, gradients over the backend of the device.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from importlib.util import find_spec
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed
from torch.distributed.tensor import DTensor, distribute_tensor

from stepcredit.distributed.launcher import await_ranks, launched_processes, read_launch
from stepcredit.errors import InputError, ProcessLost, StepcreditError, user_traceback

Result = TypeVar("Result")
DEEPSPEED = "ACCELERATE_USE_DEEPSPEED"
"""Environment variable that accelerate sets to "true" when it starts processes for DeepSpeed."""
_LOST = "another process of this run has ended or cannot be reached"
_BUCKET_ELEMENTS = 2**24
_NO_TIMEOUT = 10**7  # seconds; torch.distributed needs a number
_GLOO_GRACE_SECONDS = 0.1


class ProcessGroup:
    """The processes of a run. This base class is the group of a run with one process.

    Attributes:
        rank: index of this process, from 0.
        world_size: number of processes.
        sharded: whether the weights are sharded over the processes, so that every forward involves all of them.
        deepspeed: whether DeepSpeed makes the optimizer steps.
        error_is_shared: whether an error was raised on all processes.
    """

    rank = 0
    world_size = 1
    sharded = False
    deepspeed = False
    error_is_shared = False

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, the only process that writes files and logs."""
        return self.rank == 0

    @property
    def has_sharded_state(self) -> bool:
        """Whether all processes are needed to gather the weights and the optimizer state."""
        return self.world_size > 1 and (self.sharded or self.deepspeed)

    def all_gather(self, value: Result) -> list[Result]:
        """The `value` of each process by rank, on all processes."""
        return [value]

    def all_reduce_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Replace every gradient by its sum over all processes. A missing gradient counts as 0."""

    def all_true(self, condition: bool) -> bool:
        """Whether `condition` is true on all processes."""
        return all(self.all_gather(condition))

    def run_on_all(self, work: Callable[[], Result]) -> Result:
        """Call `work` on every process and return this process's own result.

        Raises:
            StepcreditError, OSError: raised on all processes if any of them raised it: the error of the lowest rank.
        """
        result, error = _call(work)
        self._raise_first(self.all_gather(error))
        return result  # type: ignore[return-value]

    def run_on_main(self, work: Callable[[], Result]) -> Result:
        """Call `work` on rank 0 only and return its result on all processes. Raises as `run_on_all`."""
        results, errors = zip(*self.all_gather(_call(work) if self.is_main else (None, None)), strict=True)
        self._raise_first(errors)
        return results[0]  # type: ignore[no-any-return]

    def destroy(self) -> None:
        """Disconnect. Nothing can be exchanged afterwards."""

    def _raise_first(self, errors: Iterable[Exception | None]) -> None:
        for error in errors:
            if error is not None:
                self.error_is_shared = True
                raise error


class DistributedProcessGroup(ProcessGroup):
    """Processes that were started by a launcher. torch.distributed must be initialized."""

    def __init__(self, rank: int, world_size: int, sharded: bool, deepspeed: bool) -> None:
        self.rank = rank
        self.world_size = world_size
        self.sharded = sharded
        self.deepspeed = deepspeed
        self._objects: Any = distributed.new_group(backend="gloo")

    def all_gather(self, value: Result) -> list[Result]:
        values: list[Any] = [None] * self.world_size
        with _errors_as_process_lost():
            distributed.all_gather_object(values, value, group=self._objects)
        return values

    def all_reduce_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        for bucket in _buckets(parameters):
            flat = torch.cat([gradient.flatten() for gradient in bucket])
            with _errors_as_process_lost():
                distributed.all_reduce(flat)
            for gradient, total in zip(bucket, flat.split([part.numel() for part in bucket]), strict=True):
                gradient.copy_(total.view_as(gradient))

    def destroy(self) -> None:
        destroy_process_group()


def init_process_group(
    expected: int | None,
    *,
    cpu: bool,
    sharded: bool = False,
    timeout: float | None = None,
    connect_timeout: float | None = None,
) -> ProcessGroup:
    """Connect to the other processes of this run, if a launcher started any.

    Args:
        expected: required number of processes. None accepts any number.
        cpu: compute on the CPU even if there is an accelerator.
        sharded: see `ProcessGroup`.
        timeout: seconds that an exchange may take. None means no limit.
        connect_timeout: seconds to wait for the other processes. None means no limit.

    Raises:
        InputError: the number of processes is not `expected`; the variables of the launcher are not complete; another
            process does not connect in time; or the launcher started DeepSpeed, which is not installed or cannot be
            combined with `sharded`.
    """
    launched = launched_processes()
    if expected is not None and launched != expected:
        started = (
            "one process, or the command was not started by torchrun or accelerate"
            if launched == 1
            else f"{launched} processes"
        )
        raise InputError(f"run.processes is {expected}, but the launcher has started {started}")
    deepspeed = os.environ.get(DEEPSPEED, "").lower() == "true"
    if deepspeed:
        _require_deepspeed(sharded)
    launch = read_launch(even_one=deepspeed)
    if launch is None:
        if sharded:
            raise InputError(
                "model.shard needs two or more processes, but there is one: start the run with torchrun, or set "
                "model.shard=false"
            )
        return ProcessGroup()

    store = None if distributed.is_initialized() else await_ranks(launch, connect_timeout)
    from accelerate import PartialState  # type: ignore[import-untyped]  # the import takes a second

    cpu = cpu or not torch.accelerator.is_available()
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # accelerate would warn and choose another number
    limit = timedelta(seconds=timeout or _NO_TIMEOUT)
    if deepspeed:
        if cpu:
            os.environ.setdefault("DS_ACCELERATOR", "cpu")
        state = PartialState(backend="gloo" if cpu else None, timeout=limit)  # cpu=True would disable DeepSpeed
    else:
        state = PartialState(cpu=cpu, timeout=limit)
    del store
    if state.num_processes != launched:
        raise InputError(f"the launcher started {launched} processes, but accelerate connected {state.num_processes}")
    return DistributedProcessGroup(state.process_index, state.num_processes, sharded, deepspeed)


def destroy_process_group() -> None:
    """Call `torch.distributed.destroy_process_group`, then let gloo's threads finish.

    A gloo thread may still hold the tensors of its last collective for a moment after that collective has completed. If
    the interpreter shuts down in that moment, the thread cannot take the GIL to release them, and C++ aborts the
    process. torch has no function that joins these threads, and sharded weights keep them alive.
    """
    distributed.destroy_process_group()
    time.sleep(_GLOO_GRACE_SECONDS)


def full_tensor(tensor: Tensor) -> Tensor:
    """The whole of a sharded tensor; any other tensor itself. A collective: all processes must call it."""
    whole: Tensor = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return whole


def shard_like(value: Tensor, like: Tensor) -> Tensor:
    """This process's shard of `value`, which all processes have in full. `value` itself if `like` is not sharded."""
    if not isinstance(like, DTensor) or isinstance(value, DTensor):
        return value
    whole = value.to(like.device, like.dtype)
    return distribute_tensor(whole, like.device_mesh, like.placements, src_data_rank=None)


@contextmanager
def gloo_errors_as_process_lost() -> Iterator[None]:
    """Raise ProcessLost if a collective inside, such as that of a sharded forward, fails. Other errors pass through."""
    try:
        yield
    except RuntimeError as error:
        if not is_lost_process(error):
            raise
        raise ProcessLost(_LOST) from error


def is_lost_process(error: BaseException) -> bool:
    """Whether a collective has raised `error`, because another process has ended or cannot be reached."""
    return isinstance(error, RuntimeError) and (isinstance(error, distributed.DistError) or "gloo" in str(error))


@contextmanager
def _errors_as_process_lost() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise ProcessLost(_LOST) from error


def _require_deepspeed(sharded: bool) -> None:
    if sharded:
        raise InputError(
            "model.shard cannot be combined with DeepSpeed's ZeRO stages 0 to 2: launch without DeepSpeed, or set "
            "model.shard=false"
        )
    if "LOCAL_RANK" not in os.environ:
        raise InputError(f"{DEEPSPEED} is set, but the command was not started by accelerate: use `accelerate launch`")
    if find_spec("deepspeed") is None:
        raise InputError(
            "the launcher asks for DeepSpeed, but deepspeed is not installed: pip install 'stepcredit[deepspeed]'"
        )


def _call(work: Callable[[], Result]) -> tuple[Result | None, Exception | None]:
    """The result of `work`, or the error that it raised. Unexpected errors are not caught: they end the process."""
    try:
        return work(), None
    except (StepcreditError, OSError) as error:
        if isinstance(error, StepcreditError):
            error.traceback = user_traceback(error)
        error.__cause__ = None  # it may not be picklable
        return None, error


def _buckets(parameters: Iterable[torch.nn.Parameter]) -> Iterator[list[Tensor]]:
    """Gradients in buckets of one dtype, one device and a limited size, without sharded ones, which FSDP reduces."""
    bucket: list[Tensor] = []
    for parameter in parameters:
        if isinstance(parameter, DTensor):
            continue
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        gradient = parameter.grad
        fits = not bucket or (
            (bucket[0].dtype, bucket[0].device) == (gradient.dtype, gradient.device)
            and sum(part.numel() for part in bucket) + gradient.numel() <= _BUCKET_ELEMENTS
        )
        if not fits:
            yield bucket
            bucket = []
        bucket.append(gradient)
    if bucket:
        yield bucket
