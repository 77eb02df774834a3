"""Enter a stock pipeline's own `__call__`: once to record a whole walk, then again for any single step with gradients.

The pipeline keeps its prompt handling, guidance and model inputs; we only remember what `encode_prompt` and
`prepare_latents` returned and substitute it on re-entry, so that a replay feeds the denoiser what the rollout fed it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import DiffusionPipeline
from torch import Tensor
from torch.utils._pytree import tree_map

from stepcredit.errors import InputError
from stepcredit.maths import Transition
from stepcredit.policy.schedulers import RecordingDDIMScheduler
from stepcredit.policy.tape import Recorder, Replayer, StepReached, Tape


@dataclass(frozen=True)
class Recording:
    """What one rollout batch passed through the pipeline, besides latents.

    Attributes:
        call: keyword arguments of `__call__` without the prompt.
        eta: noise scale of the walk.
        encodings: each return value of `encode_prompt`, in order of the calls.
        prepared: each return value of `prepare_latents`.
        prompts: texts, B of them.
    """

    call: dict[str, Any]
    eta: float
    encodings: tuple[Any, ...]
    prepared: tuple[Any, ...]
    prompts: tuple[str, ...]

    def rows(self, rows: Tensor) -> Recording:
        """The recording of some of its samples: tensors whose first length is B are indexed."""
        count, indices = len(self.prompts), rows.tolist()

        def pick(value: Any) -> Any:
            if isinstance(value, Tensor) and value.ndim > 0 and value.shape[0] == count:
                return value[rows.to(value.device)]
            return value

        return Recording(
            self.call,
            self.eta,
            tree_map(pick, self.encodings),
            tree_map(pick, self.prepared),
            tuple(self.prompts[index] for index in indices),
        )

    @staticmethod
    def joined(recordings: Sequence[Recording]) -> Recording:
        """One recording of several rollout batches of the same call."""
        if len(recordings) == 1:
            return recordings[0]

        def join(*values: Any) -> Any:
            batched = all(
                isinstance(value, Tensor) and value.ndim > 0 and value.shape[0] == len(recording.prompts)
                for value, recording in zip(values, recordings, strict=True)
            )
            return torch.cat(values) if batched else values[0]

        first = recordings[0]
        return Recording(
            first.call,
            first.eta,
            tree_map(join, *(recording.encodings for recording in recordings)),
            tree_map(join, *(recording.prepared for recording in recordings)),
            tuple(prompt for recording in recordings for prompt in recording.prompts),
        )


@torch.no_grad()
def record(
    pipeline: DiffusionPipeline,
    scheduler: RecordingDDIMScheduler,
    prompts: Sequence[str],
    call: dict[str, Any],
    tape: Recorder,
) -> tuple[Any, Recording]:
    """Run the pipeline once with `scheduler` under `tape`; returns its output and the recording."""
    encodings: list[Any] = []
    prepared: list[Any] = []
    with (
        _substituted(pipeline, "encode_prompt", _remembering(pipeline.encode_prompt, encodings)),
        _substituted(pipeline, "prepare_latents", _remembering(pipeline.prepare_latents, prepared)),
        _under(tape, pipeline, scheduler),
    ):
        output = pipeline(prompt=list(prompts), generator=tape.generators, **call)
    return output, Recording(call, tape.eta, tuple(encodings), tuple(prepared), tuple(prompts))


def replay(
    pipeline: DiffusionPipeline, scheduler: RecordingDDIMScheduler, recording: Recording, latents: Tensor, step: int
) -> Transition:
    """The transition of one step from `latents` (B, *L), by re-entering `__call__` at that step.

    Gradients are on or off as they are for the caller: the pipeline's own no_grad decorator is bypassed.
    """
    encodings, prepared = iter(recording.encodings), iter(recording.prepared)

    def prepare(*_: Any, **__: Any) -> Any:
        remembered = next(prepared)
        return (latents, *remembered[1:]) if isinstance(remembered, tuple) else latents

    with (
        _substituted(pipeline, "encode_prompt", lambda *_, **__: next(encodings)),
        _substituted(pipeline, "prepare_latents", prepare),
        _under(Replayer(recording.eta, step), pipeline, scheduler),
    ):
        try:
            undecorated_call(pipeline)(pipeline, prompt=list(recording.prompts), **recording.call)
        except StepReached as reached:
            return reached.transition
    raise InputError(f"{type(pipeline).__name__} finished without calling scheduler.step at step {step}")


def undecorated_call(pipeline: DiffusionPipeline) -> Callable[..., Any]:
    """The pipeline class's `__call__` beneath its no_grad decorator; InputError if there is none to lift."""
    call: Callable[..., Any] | None = getattr(type(pipeline).__call__, "__wrapped__", None)
    if call is None:
        raise InputError(
            f"{type(pipeline).__name__}.__call__ has no no_grad decorator to lift: cannot train through it"
        )
    return call


def _remembering(function: Callable[..., Any], results: list[Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def remember(*arguments: Any, **named: Any) -> Any:
        results.append(function(*arguments, **named))
        return results[-1]

    return remember


@contextmanager
def _substituted(pipeline: DiffusionPipeline, name: str, value: Any) -> Iterator[None]:
    """`pipeline.name` is `value` for a while. Written to __dict__, past DiffusionPipeline's bookkeeping of parts."""
    attributes = pipeline.__dict__
    had, before = name in attributes, attributes.get(name)
    attributes[name] = value
    try:
        yield
    finally:
        if had:
            attributes[name] = before
        else:
            del attributes[name]


@contextmanager
def _under(tape: Tape, pipeline: DiffusionPipeline, scheduler: RecordingDDIMScheduler) -> Iterator[None]:
    scheduler.tape = tape
    try:
        with _substituted(pipeline, "scheduler", scheduler):
            yield
    finally:
        scheduler.tape = None
