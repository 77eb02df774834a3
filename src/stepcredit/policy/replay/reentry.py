"""Enter a stock pipeline's own `__call__`: once to record a whole trajectory, then again for any of its steps with gradients.

The pipeline keeps its prompt handling, guidance and model inputs; we only remember what `encode_prompt` returned and
put the stored latents in the place of those of `prepare_latents`, so that a replay feeds the denoiser what the rollout
fed it. All of it happens on a double of the pipeline (`pipeline_proxy`).
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from stepcredit.errors import InputError
from stepcredit.maths import Transition
from stepcredit.policy.replay.denoiser_proxies import DenoiserCall, IdleDenoiser, TimedDenoiser, WatchedDenoiser
from stepcredit.policy.replay.pipeline_proxy import pipeline_proxy
from stepcredit.policy.replay.prompt_cache import PromptCache
from stepcredit.policy.replay.schedulers import RecordingDDIMScheduler, RecordingFlowScheduler
from stepcredit.policy.replay.step_hooks import RecordingHook, ReplayHook, StepReached

ReplayMode = Literal["mixed-steps", "one-step", "full-loop"]
Scheduler = RecordingDDIMScheduler | RecordingFlowScheduler


@dataclass(frozen=True)
class Recording:
    """What one rollout passed through the pipeline, besides latents.

    Attributes:
        call: keyword arguments of `__call__` without the prompt; text that a pipeline wants once per image is given so.
        noises: the noise scale of every step.
        prompts: texts, B of them.
        encodings: what `encode_prompt` returned.
        device: where the pipeline runs.
        batch: images of the first batch.
        prepared: what `prepare_latents` returned beside latents, by batch size, and how to ask it for another size.
        calls: of the first batch, the calls of the denoiser, per step.
    """

    call: dict[str, Any]
    noises: tuple[float, ...]
    prompts: tuple[str, ...]
    encodings: PromptCache
    device: torch.device
    batch: int
    prepared: dict[int, Any] = field(default_factory=dict)
    calls: list[list[DenoiserCall]] = field(default_factory=list)

    def rows(self, rows: Tensor) -> Recording:
        """The recording of some of its samples."""
        return replace(self, prompts=tuple(self.prompts[index] for index in rows.tolist()))


@torch.no_grad()
def record(
    pipeline: DiffusionPipeline,
    denoiser: str,
    scheduler: Scheduler,
    recording: Recording,
    prompts: Sequence[str],
    hook: RecordingHook,
) -> Any:
    """Run the pipeline once on a batch of the recording's prompts with `scheduler` under `hook`; returns its output."""
    double = pipeline_proxy(pipeline, recording.device, scheduler=scheduler)
    encode = recording.encodings.recording(double.encode_prompt, prompts)
    double.__dict__["encode_prompt"] = encode
    double.__dict__["prepare_latents"] = _contiguous(double.prepare_latents)
    if not recording.calls:
        double.__dict__[denoiser] = WatchedDenoiser(getattr(pipeline, denoiser), hook, recording.calls)
    scheduler.hook = hook
    try:
        return type(pipeline).__call__(
            double, prompt=list(prompts), generator=hook.generators, **_call(recording, prompts)
        )
    finally:
        scheduler.hook = None


def replay(
    pipeline: DiffusionPipeline,
    denoiser: str,
    scheduler: Scheduler,
    recording: Recording,
    latents: Tensor,
    steps: Sequence[int],
    mode: ReplayMode,
) -> Transition:
    """The transitions from `latents` (B, *L), row n at `steps[n]`, by re-entering `__call__` and stopping there.

    "one-step" begins the pipeline's loop at the step; it is wrong where the pipeline looks at the loop's index.
    "mixed-steps" does so for rows at several steps: the denoiser gets each row's own time; it is wrong where the
    pipeline uses the time for anything else. "full-loop" runs the whole loop with an idle denoiser until it gets to the
    step. Gradients are on or off as they are for the caller: the pipeline's own no_grad decorator is bypassed.

    Raises:
        InputError: rows at several steps in another mode or with different noise, a step that the trajectory does not have,
            or the pipeline ends before it.
    """
    if mode != "mixed-steps" and len(set(steps)) > 1:
        raise InputError(f"{type(pipeline).__name__} cannot replay several steps at a time ({mode})")
    if not all(0 <= step < len(recording.noises) for step in steps):
        raise InputError(f"the trajectory has {len(recording.noises)} steps; there is no step {max(steps)}")
    if len({recording.noises[step] for step in steps}) > 1:
        raise InputError("steps with noise and steps without cannot be replayed together")
    hook = ReplayHook(recording.noises, steps, whole=mode == "full-loop")
    double = pipeline_proxy(
        pipeline,
        recording.device,
        scheduler=scheduler,
        encode_prompt=_in_turn(recording.encodings.of(recording.prompts)),
    )
    double.__dict__["prepare_latents"] = _prepared(double.prepare_latents, recording, latents)
    if mode == "full-loop":
        double.__dict__[denoiser] = IdleDenoiser(
            getattr(pipeline, denoiser), hook, recording.calls, recording.batch, len(latents)
        )
    elif mode == "mixed-steps":
        double.__dict__[denoiser] = TimedDenoiser(getattr(pipeline, denoiser), recording.calls, steps)
    scheduler.hook = hook
    try:
        undecorated_call(pipeline)(double, prompt=list(recording.prompts), **_call(recording, recording.prompts))
    except StepReached as reached:
        return reached.transition
    finally:
        scheduler.hook = None
    raise InputError(f"{type(pipeline).__name__} finished without calling scheduler.step at step {steps[0]}")


def undecorated_call(pipeline: DiffusionPipeline) -> Callable[..., Any]:
    """The pipeline class's `__call__` beneath its no_grad decorator; InputError if there is none to lift."""
    call: Callable[..., Any] | None = getattr(type(pipeline).__call__, "__wrapped__", None)
    if call is None:
        raise InputError(
            f"{type(pipeline).__name__}.__call__ has no no_grad decorator to lift: cannot train through it"
        )
    return call


def _call(recording: Recording, prompts: Sequence[str]) -> dict[str, Any]:
    """The call's arguments for a batch: a negative prompt once per image, which some pipelines ask for."""
    return {
        name: [value] * len(prompts) if name.startswith("negative_prompt") and isinstance(value, str) else value
        for name, value in recording.call.items()
    }


def _contiguous(prepare: Callable[..., Any]) -> Callable[..., Any]:
    """`prepare_latents` in the memory layout of stored latents: in half precision kernels round by layout."""

    @functools.wraps(prepare)
    def prepare_contiguous(*arguments: Any, **named: Any) -> Any:
        value = prepare(*arguments, **named)
        return (value[0].contiguous(), *value[1:]) if isinstance(value, tuple) else value.contiguous()

    return prepare_contiguous


def _in_turn(values: Sequence[Any]) -> Callable[..., Any]:
    remaining = iter(values)
    return lambda *_, **__: next(remaining)


def _prepared(own: Callable[..., Any], recording: Recording, latents: Tensor) -> Callable[..., Any]:
    """A `prepare_latents` that returns `latents`, with whatever the pipeline's `own` returns beside them."""

    def prepare(*arguments: Any, **named: Any) -> Any:
        if len(latents) not in recording.prepared:
            bound = inspect.signature(own).bind(*arguments, **named)
            bound.arguments["generator"] = torch.Generator().manual_seed(0)  # leave the global one alone
            with torch.no_grad():
                value = own(*bound.args, **bound.kwargs)
            recording.prepared[len(latents)] = value[1:] if isinstance(value, tuple) else None
        beside = recording.prepared[len(latents)]
        return latents if beside is None else (latents, *beside)

    return prepare
