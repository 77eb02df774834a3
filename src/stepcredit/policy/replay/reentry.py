"""Run a stock pipeline's own `__call__`: to record a trajectory, to predict one step of it, or to decode latents.

The pipeline keeps its prompt handling, guidance, model inputs and decoding. A prediction re-enters `__call__` with the
recorded prompt encodings and with given latents in place of those of `prepare_latents`, and leaves it inside
`scheduler.step`, so that the denoiser sees the same inputs as in the rollout. Decoding skips the denoising loop.
Everything happens on a proxy of the pipeline (`pipeline_proxy`).
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from stepcredit.errors import InputError
from stepcredit.maths import Transition
from stepcredit.policy.replay.denoiser_proxies import RecordingDenoiser, SkippingDenoiser, TimedDenoiser
from stepcredit.policy.replay.pipeline_proxy import pipeline_proxy
from stepcredit.policy.replay.recording import Recording
from stepcredit.policy.replay.schedulers import RecordingDDIMScheduler, RecordingFlowScheduler
from stepcredit.policy.replay.step_hooks import NoStepsHook, RecordingHook, ReplayHook, StepHook, StepReached

ReplayMode = Literal["mixed-steps", "one-step", "full-loop"]
Scheduler = RecordingDDIMScheduler | RecordingFlowScheduler


@torch.no_grad()
def record(
    pipeline: DiffusionPipeline,
    denoiser: str,
    scheduler: Scheduler,
    recording: Recording,
    prompts: Sequence[str],
    hook: RecordingHook,
) -> Any:
    """Run the whole pipeline on a batch of the recording's prompts; returns its output."""
    proxy = pipeline_proxy(pipeline, recording.device)
    proxy.scheduler = scheduler
    proxy.encode_prompt = recording.encodings.recording(proxy.encode_prompt, prompts)
    proxy.prepare_latents = _contiguous(proxy.prepare_latents)
    if not recording.denoiser_calls:
        setattr(proxy, denoiser, RecordingDenoiser(getattr(pipeline, denoiser), hook, recording.denoiser_calls))
    with _hooked(scheduler, hook):
        return type(pipeline).__call__(proxy, generator=hook.generators, **recording.arguments(prompts))


def predict(
    pipeline: DiffusionPipeline,
    denoiser: str,
    scheduler: Scheduler,
    recording: Recording,
    latents: Tensor,
    steps: Sequence[int],
    mode: ReplayMode,
) -> Transition:
    """The transitions from `latents` (B, *L), row n at `steps[n]`. Gradients are enabled if they are for the caller.

    | mode | what it does | it is wrong for a pipeline that |
    |---|---|---|
    | "mixed-steps" | starts the loop at the step; passes each row its own time | uses the time itself |
    | "one-step" | starts the loop at the step, the same for all rows | uses the index of the loop |
    | "full-loop" | starts at step 0, with a denoiser that returns zeros before the step | |

    Raises:
        InputError: rows at several steps in another mode, a step that the trajectory does not have, or a pipeline that
            returns before the step.
    """
    if mode != "mixed-steps" and len(set(steps)) > 1:
        raise InputError(f"{type(pipeline).__name__} cannot replay several steps at a time ({mode})")
    if not all(0 <= step < len(recording.noises) for step in steps):
        raise InputError(f"the trajectory has {len(recording.noises)} steps; there is no step {max(steps)}")
    hook = ReplayHook(recording.noises, steps, full_loop=mode == "full-loop")
    proxy = _replaying(pipeline, scheduler, recording, latents)
    own = getattr(pipeline, denoiser)
    if mode == "full-loop":
        setattr(proxy, denoiser, SkippingDenoiser(own, hook, recording.denoiser_calls))
    elif mode == "mixed-steps":
        setattr(proxy, denoiser, TimedDenoiser(own, recording.denoiser_calls, steps))
    try:
        with _hooked(scheduler, hook):
            undecorated_call(pipeline)(proxy, **recording.arguments(recording.prompts))
    except StepReached as reached:
        return reached.transition
    raise InputError(f"{type(pipeline).__name__} finished without calling scheduler.step at step {steps[0]}")


def decode(pipeline: DiffusionPipeline, scheduler: Scheduler, recording: Recording, latents: Tensor) -> Tensor:
    """Images (B,3,H,W) in [0,1] of `latents`, one per prompt. Gradients are enabled if they are for the caller."""
    proxy = _replaying(pipeline, scheduler, recording, latents)
    # Detached tensors keep their values when a pipeline casts its VAE back to half precision after decoding.
    with _hooked(scheduler, NoStepsHook()), torch.autograd.graph.saved_tensors_hooks(torch.Tensor.detach, _unchanged):
        images: Tensor = undecorated_call(pipeline)(proxy, **recording.arguments(recording.prompts)).images
    return images


def undecorated_call(pipeline: DiffusionPipeline) -> Callable[..., Any]:
    """The pipeline class's `__call__` without its no_grad decorator; InputError if it has none."""
    call: Callable[..., Any] | None = getattr(type(pipeline).__call__, "__wrapped__", None)
    if call is None:
        raise InputError(
            f"{type(pipeline).__name__}.__call__ has no no_grad decorator to remove: cannot train through it"
        )
    return call


@contextmanager
def _hooked(scheduler: Scheduler, hook: StepHook) -> Iterator[None]:
    scheduler.hook = hook
    try:
        yield
    finally:
        scheduler.hook = None


def _replaying(pipeline: DiffusionPipeline, scheduler: Scheduler, recording: Recording, latents: Tensor) -> Any:
    """A proxy that starts from `latents` with the recorded encodings."""
    proxy = pipeline_proxy(pipeline, recording.device)
    proxy.scheduler = scheduler
    proxy.encode_prompt = recording.encodings.recording(proxy.encode_prompt, recording.prompts)
    proxy.prepare_latents = _prepared(proxy.prepare_latents, recording, latents)
    return proxy


def _contiguous(prepare: Callable[..., Any]) -> Callable[..., Any]:
    """`prepare_latents` with the memory layout of stored latents: in half precision kernels round by layout."""

    @functools.wraps(prepare)
    def prepare_contiguous(*args: Any, **kwargs: Any) -> Any:
        value = prepare(*args, **kwargs)
        return (value[0].contiguous(), *value[1:]) if isinstance(value, tuple) else value.contiguous()

    return prepare_contiguous


def _prepared(own: Callable[..., Any], recording: Recording, latents: Tensor) -> Callable[..., Any]:
    """A `prepare_latents` that returns `latents`, and whatever the pipeline's `own` returns in addition."""

    def prepare(*args: Any, **kwargs: Any) -> Any:
        if len(latents) not in recording.prepared:
            bound = inspect.signature(own).bind(*args, **kwargs)
            bound.arguments["generator"] = torch.Generator().manual_seed(0)  # leave the global one alone
            with torch.no_grad():
                value = own(*bound.args, **bound.kwargs)
            recording.prepared[len(latents)] = value[1:] if isinstance(value, tuple) else None
        others = recording.prepared[len(latents)]
        return latents if others is None else (latents, *others)

    return prepare


def _unchanged(value: Tensor) -> Tensor:
    return value
