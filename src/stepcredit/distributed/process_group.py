"""Several processes that train one model together, and what a single one does in their place.

They are started by torchrun or accelerate and joined by accelerate over torch.distributed; without a launcher there is
one. Objects travel over gloo, gradients over what suits the device.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from importlib.util import find_spec
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed
from torch.distributed.tensor import DTensor, distribute_tensor

from stepcredit.errors import InputError, ProcessLost, StepcreditError

Result = TypeVar("Result")
DEEPSPEED = "ACCELERATE_USE_DEEPSPEED"
"""Set to "true" by a launcher that asks for DeepSpeed."""
_LOST = "another process of this run has ended, or cannot be reached"
_BUCKET = 2**24
"""Numbers that are added up at a time."""
_PARTING = 0.1
"""Seconds that gloo's threads have to let go of the last tensors."""


class ProcessGroup:
    """The processes of a run: here, one alone.

    Attributes:
        rank: of this process, from 0.
        world_size: of all.
        sharded: whether each forward is made by all of them together, because the weights are shared out.
        deepspeed: whether the optimizer's steps are DeepSpeed's.
        error_is_shared: whether an error has been raised that all of them know of.
    """

    rank = 0
    world_size = 1
    sharded = False
    deepspeed = False
    error_is_shared = False

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes files and talks to the user."""
        return self.rank == 0

    @property
    def has_sharded_state(self) -> bool:
        """Whether it takes all of them to know the weights and what the optimizer remembers."""
        return self.world_size > 1 and (self.sharded or self.deepspeed)

    def all_gather(self, value: Result) -> list[Result]:
        """What each process gives, in their order, on all of them."""
        return [value]

    def all_reduce_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Put the sum over processes in place of every gradient; one that is missing counts as 0."""

    def run_on_all(self, work: Callable[[], Result]) -> list[Result]:
        """What `work` gives on each process, on all of them.

        Raises:
            StepcreditError: on all of them, the first that was raised on any.
        """
        outcomes = self.all_gather(_outcome(work, self.rank))
        for outcome in outcomes:
            if outcome.error is not None:
                self.error_is_shared = True
                raise outcome.error
        return [outcome.value for outcome in outcomes]

    def run_on_main(self, work: Callable[[], Result]) -> Result:
        """What `work` gives on the main process, which alone does it, on all of them; raises as `together`."""
        return self.run_on_all(lambda: work() if self.is_main else None)[0]  # type: ignore[return-value]

    def destroy(self) -> None:
        """No more is to be exchanged."""

    def all_true(self, fact: bool) -> bool:
        """Whether it is so on all of them."""
        return all(self.all_gather(fact))


class DistributedProcessGroup(ProcessGroup):
    """ProcessGroup that a launcher has started, of which this is one."""

    def __init__(self, index: int, count: int, sharded: bool, deepspeed: bool) -> None:
        self.rank = index
        self.world_size = count
        self.sharded = sharded
        self.deepspeed = deepspeed
        self._objects: Any = distributed.new_group(backend="gloo")

    def all_gather(self, value: Result) -> list[Result]:
        values: list[Any] = [None] * self.world_size
        with _ended_elsewhere():
            distributed.all_gather_object(values, value, group=self._objects)
        return values

    def destroy(self) -> None:
        destroy_process_group()

    def all_reduce_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        for bucket in _buckets(parameters):
            flat = torch.cat([gradient.flatten() for gradient in bucket])
            with _ended_elsewhere():
                distributed.all_reduce(flat)
            for gradient, total in zip(bucket, flat.split([part.numel() for part in bucket]), strict=True):
                gradient.copy_(total.view_as(gradient))


def init_process_group(
    asked: int | None, *, cpu: bool, sharded: bool = False, patience: float | None = None
) -> ProcessGroup:
    """Join the other processes of this run, if a launcher has started any.

    Args:
        asked: how many there are to be.
        cpu: compute on the CPU even where there is an accelerator.
        sharded: as of `ProcessGroup`.
        patience: seconds to wait for the others at any time; None is for ever, or nearly.

    Raises:
        InputError: there are more or fewer than `asked`, or the launcher asks for DeepSpeed, which is not there or
            does not go with `sharded`.
    """
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if asked is not None and launched != asked:
        raise InputError(f"run.processes is {asked}, but the launcher has started {_number(launched)}")
    deepspeed = os.environ.get(DEEPSPEED, "").lower() == "true"
    if deepspeed:
        _require_deepspeed(sharded)
    elif launched == 1:
        if sharded:
            raise InputError(
                "model.shard shares the weights out over processes, but there is one: use torchrun or model.shard=false"
            )
        return ProcessGroup()

    from accelerate import PartialState  # type: ignore[import-untyped]  # takes a second

    cpu = cpu or not torch.accelerator.is_available()
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # accelerate would warn and choose another number
    waiting = timedelta(seconds=patience or 10**7)
    if deepspeed:
        if cpu:
            os.environ.setdefault("DS_ACCELERATOR", "cpu")
        state = PartialState(backend="gloo" if cpu else None, timeout=waiting)  # with cpu=True there is no DeepSpeed
    else:
        state = PartialState(cpu=cpu, timeout=waiting)
    if state.num_processes != launched:
        raise InputError(f"the launcher says {launched} processes, but accelerate has joined {state.num_processes}")
    return DistributedProcessGroup(state.process_index, state.num_processes, sharded, deepspeed)


def destroy_process_group() -> None:
    """End what joins this process to the others.

    Weights that are shared out keep gloo's threads alive. One that lets go of a tensor while the interpreter ends
    cannot have its lock, and C++ aborts the process; there is nothing to join them by, so they are given the time.
    """
    distributed.destroy_process_group()
    time.sleep(_PARTING)


def whole_tensor(tensor: Tensor) -> Tensor:
    """`tensor` with the parts that other processes hold. All of them have to ask."""
    whole: Tensor = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return whole


def part_like(value: Tensor, like: Tensor) -> Tensor:
    """This process's part of a tensor that all processes have whole, if `like` is such a part; else `value` itself."""
    if not isinstance(like, DTensor) or isinstance(value, DTensor):
        return value
    whole = value.to(like.device, like.dtype)
    return distribute_tensor(whole, like.device_mesh, like.placements, src_data_rank=None)


def _require_deepspeed(sharded: bool) -> None:
    if sharded:
        raise InputError(
            "model.shard and DeepSpeed's stages 0 to 2 exclude each other: launch without it, or set model.shard=false"
        )
    if "LOCAL_RANK" not in os.environ:
        raise InputError(f"{DEEPSPEED} is set, but the command was not started by accelerate")
    if find_spec("deepspeed") is None:
        raise InputError("the launcher asks for DeepSpeed, which needs deepspeed: pip install 'stepcredit[deepspeed]'")


@contextmanager
def in_words() -> Iterator[None]:
    """A forward that another process is needed for, and that is no more, ends as `ProcessLost`; other errors stay."""
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, distributed.DistError) and "gloo" not in str(error):
            raise
        raise ProcessLost(_LOST) from error


@contextmanager
def _ended_elsewhere() -> Iterator[None]:
    """Whoever waits for a process that is no more hears of it in words."""
    try:
        yield
    except RuntimeError as error:
        raise ProcessLost(_LOST) from error


@dataclass(frozen=True)
class _Outcome:
    value: Any = None
    error: StepcreditError | OSError | None = None


def _outcome(work: Callable[[], Any], index: int) -> _Outcome:
    """What came of `work`. Errors that a user can mend travel; any other ends this process and so the run."""
    try:
        return _Outcome(work())
    except (StepcreditError, OSError) as error:
        error.__cause__ = None  # it may be anything, and need not travel
        return _Outcome(error=error)


def _number(count: int) -> str:
    return (
        "one process, or the command was not started by torchrun or accelerate" if count == 1 else f"{count} processes"
    )


def _buckets(parameters: Iterable[torch.nn.Parameter]) -> Iterator[list[Tensor]]:
    """Gradients of one dtype and device each, up to a size; not those that are shared out and added up already."""
    bucket: list[Tensor] = []
    for parameter in parameters:
        if isinstance(parameter, DTensor):
            continue
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        gradient = parameter.grad
        alike = not bucket or (bucket[0].dtype, bucket[0].device) == (gradient.dtype, gradient.device)
        if bucket and (not alike or sum(part.numel() for part in bucket) + gradient.numel() > _BUCKET):
            yield bucket
            bucket = []
        bucket.append(gradient)
    if bucket:
        yield bucket
