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
from dataclasses import dataclass
from typing import Any, Literal

import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from stepcredit.errors import InputError
from stepcredit.maths import Transition
from stepcredit.policy.replay.denoiser_proxies import (
    DenoiserProxy,
    RecordingDenoiser,
    SkippingDenoiser,
    TimedDenoiser,
)
from stepcredit.policy.replay.pipeline_proxy import pipeline_proxy
from stepcredit.policy.replay.recording import Recording
from stepcredit.policy.replay.schedulers import RecordingScheduler
from stepcredit.policy.replay.step_hooks import NoStepsHook, RecordingHook, ReplayHook, StepHook, StepReached

ReplayMode = Literal["mixed-steps", "one-step", "full-loop"]


@dataclass(frozen=True)
class Reentry:
    """A pipeline that can be run to record, predict and decode.

    Args:
        denoiser: `transformer` or `unet`.
        scheduler: the scheduler that replaces the pipeline's own.
    """

    pipeline: DiffusionPipeline
    denoiser: str
    scheduler: RecordingScheduler

    @torch.no_grad()
    def record(self, recording: Recording, prompts: Sequence[str], hook: RecordingHook) -> Any:
        """Run the whole pipeline on a batch of the recording's prompts; returns its output."""
        proxy = self._proxy(recording)
        proxy.encode_prompt = recording.encodings.encoder(proxy.encode_prompt, prompts)
        proxy.prepare_latents = _contiguous(proxy.prepare_latents)
        if not recording.denoiser_calls:
            self._replace_denoiser(proxy, RecordingDenoiser, hook, recording.denoiser_calls)
        with _hooked(self.scheduler, hook):
            return type(self.pipeline).__call__(proxy, generator=hook.generators, **recording.arguments(prompts))

    def predict(self, recording: Recording, latents: Tensor, steps: Sequence[int], mode: ReplayMode) -> Transition:
        """The transitions from `latents` (B, *L), row n at `steps[n]`. Gradients follow the caller's mode.

        | mode | the loop starts at | the denoiser gets | wrong if the pipeline uses |
        |---|---|---|---|
        | "mixed-steps" | the step of the first row | the time of each row's own step | the time itself |
        | "one-step" | the step, equal for all rows | the pipeline's time | the index of the loop |
        | "full-loop" | step 0; zeros replace outputs before the step | the pipeline's time | |

        Raises:
            InputError: rows at several steps in another mode, a step that the trajectory does not have, or a pipeline
                that returns before the step.
        """
        kind = type(self.pipeline).__name__
        if mode != "mixed-steps" and len(set(steps)) > 1:
            raise InputError(f"{kind} cannot replay several steps at a time ({mode})")
        if not all(0 <= step < len(recording.noises) for step in steps):
            raise InputError(f"the trajectory has {len(recording.noises)} steps; there is no step {max(steps)}")
        hook = ReplayHook(recording.noises, steps, full_loop=mode == "full-loop")
        proxy = self._proxy(recording, latents)
        if mode == "full-loop":
            self._replace_denoiser(proxy, SkippingDenoiser, hook, recording.denoiser_calls)
        elif mode == "mixed-steps":
            self._replace_denoiser(proxy, TimedDenoiser, recording.denoiser_calls, steps)
        try:
            with _hooked(self.scheduler, hook):
                undecorated_call(self.pipeline)(proxy, **recording.arguments(recording.prompts))
        except StepReached as reached:
            return reached.transition
        raise InputError(f"{kind} finished without calling scheduler.step at step {steps[0]}")

    def decode(self, recording: Recording, latents: Tensor) -> Tensor:
        """Images (B,3,H,W) in [0,1] of `latents`, one per prompt. Gradients follow the caller's mode."""
        proxy = self._proxy(recording, latents)
        # A pipeline may cast its VAE back to half precision afterwards; detached aliases keep the float32 weights.
        keep = torch.autograd.graph.saved_tensors_hooks(torch.Tensor.detach, lambda tensor: tensor)
        with _hooked(self.scheduler, NoStepsHook()), keep:
            images: Tensor = undecorated_call(self.pipeline)(proxy, **recording.arguments(recording.prompts)).images
        return images

    def _proxy(self, recording: Recording, latents: Tensor | None = None) -> Any:
        """A proxy with the scheduler; given latents, it starts from them with the recorded encodings."""
        proxy = pipeline_proxy(self.pipeline, recording.device)
        proxy.scheduler = self.scheduler
        if latents is not None:
            proxy.encode_prompt = recording.encodings.encoder(proxy.encode_prompt, recording.prompts)
            proxy.prepare_latents = _prepared(proxy.prepare_latents, recording, latents)
        return proxy

    def _replace_denoiser(self, proxy: Any, kind: Callable[..., DenoiserProxy], *args: Any) -> None:
        setattr(proxy, self.denoiser, kind(getattr(self.pipeline, self.denoiser), *args))


def undecorated_call(pipeline: DiffusionPipeline) -> Callable[..., Any]:
    """The pipeline class's `__call__` without its no_grad decorator; InputError if it has none."""
    call: Callable[..., Any] | None = getattr(type(pipeline).__call__, "__wrapped__", None)
    if call is None:
        raise InputError(
            f"{type(pipeline).__name__}.__call__ has no no_grad decorator to remove: cannot train through it"
        )
    return call


@contextmanager
def _hooked(scheduler: RecordingScheduler, hook: StepHook) -> Iterator[None]:
    scheduler.hook = hook
    try:
        yield
    finally:
        scheduler.hook = None


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
