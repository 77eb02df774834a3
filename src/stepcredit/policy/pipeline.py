"""A stock diffusers text-to-image pipeline as a policy."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from stepcredit.config import SampleSection
from stepcredit.errors import InputError, unknown
from stepcredit.maths import Transition
from stepcredit.maths.indexing import entries
from stepcredit.policy.adapters import Adapter, denoiser_name
from stepcredit.policy.families import family_of
from stepcredit.policy.replay.denoiser_proxies import takes_time
from stepcredit.policy.replay.prompt_cache import Earlier, PromptCache, versions
from stepcredit.policy.replay.recording import Recording
from stepcredit.policy.replay.reentry import decode, predict, record
from stepcredit.policy.replay.schedulers import recording_scheduler, sampling_schedule
from stepcredit.policy.replay.step_hooks import RecordingHook
from stepcredit.policy.replay.trajectory_buffer import TrajectoryBuffer
from stepcredit.types import Plan, Prompt, Rollout, Trajectory

_ALWAYS = "the policy gives it itself"
_OURS = {
    "prompt": "prompts come from prompts.source",
    "num_inference_steps": "it is sample.steps",
    "eta": "it is sample.eta",
    "num_images_per_prompt": "it is sample.images_per_prompt",
    **dict.fromkeys(("generator", "latents", "output_type", "return_dict"), _ALWAYS),
    **dict.fromkeys(("prompt_embeds", "negative_prompt_embeds", "timesteps", "sigmas"), "it cannot be replayed"),
}


class PipelinePolicy:
    """Rollouts run the pipeline as it stands, with a recording scheduler; replays re-enter it (see `reentry`).

    The pipeline itself is never changed, so that it can be used or saved like any other.

    Args:
        defaults: arguments of the pipeline's call that `sample.call` may override.
    """

    def __init__(
        self,
        pipeline: DiffusionPipeline,
        adapter: Adapter,
        sample: SampleSection,
        defaults: Mapping[str, Any] | None = None,
    ) -> None:
        self.family = family_of(pipeline)
        _require_callable(pipeline, sample, self.family.guidance)
        self.pipeline = pipeline
        self.denoiser = denoiser_name(pipeline)
        self.scheduler = recording_scheduler(pipeline.scheduler, sample)
        self.adapter = adapter
        self.sample = sample
        mixing: tuple[Any, ...] = ("mixed-steps",) if takes_time(getattr(pipeline, self.denoiser)) else ()
        self.replay_modes = (*mixing, "one-step", "full-loop")
        self.replay_mode = self.replay_modes[0]
        self._defaults = {**self.family.call, **(defaults or {})}
        self._encoded = Earlier()

    def rollout(
        self,
        prompts: Sequence[Prompt],
        seeds: Sequence[int],
        plan: Plan | None = None,
        *,
        keep_x0: bool = False,
        on_batch: Callable[[Tensor, slice], None] | None = None,
        among: Sequence[Prompt] | None = None,
    ) -> Rollout:
        """One image per prompt. Sample n draws all its noise from its own `seeds[n]`.

        A last batch that is short of `plan.batch` is filled up with its last image, which is then dropped: kernels
        round differently by batch size, and replays are to find all batches alike.
        """
        plan = plan or Plan(self.sample.steps, range(self.sample.steps))
        size = min(plan.batch or len(prompts), len(prompts))
        recording = self._recording([prompt.text for prompt in prompts], plan, among or prompts, self._encoded)
        trajectories, images = TrajectoryBuffer(len(prompts), plan.steps, keep_x0), []
        for start in range(0, len(prompts), size):
            numbers = [min(number, len(prompts) - 1) for number in range(start, start + size)]
            rows = slice(start, min(start + size, len(prompts)))
            generators = [torch.Generator().manual_seed(seeds[number]) for number in numbers]
            hook = RecordingHook(recording.noises, generators, trajectories, rows)
            batch = self._record(recording, [recording.prompts[number] for number in numbers], hook)
            if hook.position != plan.steps:
                kind = type(self.pipeline).__name__
                raise InputError(f"{kind} made {hook.position} steps where {plan.steps} were asked of it")
            images.append(batch[: rows.stop - rows.start])
            if on_batch is not None:
                on_batch(images[-1], rows)
        trajectory = self._trajectory(trajectories, recording, plan, [prompt.metadata for prompt in prompts])
        return Rollout(trajectory, torch.cat(images))

    @property
    def mixes_steps(self) -> bool:
        return bool(self.replay_mode == "mixed-steps")

    def replay(self, trajectory: Trajectory, step: int | Tensor, rows: Tensor | None = None) -> Transition:
        rows = torch.arange(len(trajectory)) if rows is None else rows
        steps = torch.full_like(rows, step) if isinstance(step, int) else step
        return self.predict(trajectory, entries(trajectory.latents, rows, steps), steps, rows)

    def predict(
        self,
        trajectory: Trajectory,
        latents: Tensor,
        step: int | Tensor,
        rows: Tensor | None = None,
        *,
        guided: bool = True,
    ) -> Transition:
        rows = torch.arange(len(trajectory)) if rows is None else rows
        steps = torch.full_like(rows, step) if isinstance(step, int) else step
        if not len(latents) == len(rows) == len(steps):
            raise ValueError(
                f"{len(latents)} latents, {len(rows)} rows and {len(steps)} steps were given: give as many of each"
            )
        recording: Recording = trajectory.recording if guided else trajectory.recording.without_guidance()
        return predict(
            self.pipeline,
            self.denoiser,
            self.scheduler,
            recording.rows(rows),
            latents.to(trajectory.latents).contiguous(),  # as they were sampled: kernels round by memory layout
            steps.tolist(),
            self.replay_mode,
        )

    def decode(self, latents: Tensor) -> Tensor:
        """Equal to the rollout's images where `latents` are a whole batch of its final ones.

        Raises:
            InputError: gradients are enabled, but the pipeline's decoding does not pass them on.
        """
        recording = self._decoding.rows(torch.zeros(len(latents), dtype=torch.long))
        images = decode(self.pipeline, self.scheduler, recording, latents.contiguous())
        if torch.is_grad_enabled() and latents.requires_grad and not images.requires_grad:
            kind = type(self.pipeline).__name__
            raise InputError(f"{kind} decodes latents without gradients: rewards cannot be differentiated through it")
        return images if images.dtype == torch.float64 else images.float()

    @cached_property
    def _decoding(self) -> Recording:
        """Decoding needs a prompt only because `__call__` asks for one."""
        return self._recording(("",), Plan(1, range(0)), (Prompt(""),), Earlier()).without_guidance()

    def averaged(self) -> AbstractContextManager[None]:
        return self.adapter.averaged()

    def stepped(self) -> None:
        self.adapter.stepped()

    def reference(self) -> AbstractContextManager[None]:
        return self.adapter.reference()

    def parameters(self) -> list[torch.nn.Parameter]:
        return self.adapter.parameters()

    def state_dict(self) -> dict[str, Tensor]:
        return self.adapter.state_dict()

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.adapter.load_state_dict(state)

    def export(self, folder: Path) -> Path:
        return self.adapter.export(folder)

    def _recording(self, texts: Sequence[str], plan: Plan, among: Sequence[Prompt], earlier: Earlier) -> Recording:
        scale = self.scheduler.noise_scale(self.sample)
        noisy = self.scheduler.usually_noisy(plan.steps) if plan.noisy is None else plan.noisy
        call = {
            **self._defaults,
            **self.sample.call,
            "num_inference_steps": plan.steps,
            self.family.guidance: self.sample.guidance,
            "output_type": "pt",
        }
        encoded, weights = [prompt.text for prompt in among], versions(self._encoders())
        recording = Recording(
            call=call,
            noises=tuple(scale if step in noisy else 0.0 for step in range(plan.steps)),
            prompts=tuple(texts),
            encodings=PromptCache(encoded, earlier, weights),
            device=self.pipeline._execution_device,
        )
        unguided = self.family.unguided_call(call)
        if unguided == call:
            return recording
        without = replace(recording, call=unguided, encodings=PromptCache(encoded, earlier, weights))
        return replace(recording, unguided=without)

    def _encoders(self) -> list[torch.nn.Module]:
        """The text encoders, and whatever else is frozen and not the decoder."""
        others = {name: part for name, part in self.pipeline.components.items() if name not in (self.denoiser, "vae")}
        return [part for part in others.values() if isinstance(part, torch.nn.Module)]

    def _record(self, recording: Recording, texts: Sequence[str], hook: RecordingHook) -> Tensor:
        """Images (B,3,H,W) of one batch."""
        try:
            output = record(self.pipeline, self.denoiser, self.scheduler, recording, texts, hook)
        except ValueError as error:
            if not self.sample.call:
                raise
            kind, reason = type(self.pipeline).__name__, " ".join(str(error).split())
            raise InputError(f"{kind} refuses sample.call: {reason}") from error
        images: Tensor = output.images
        return images.float()

    def _trajectory(
        self, trajectories: TrajectoryBuffer, recording: Recording, plan: Plan, metadata: Sequence[dict[str, Any]]
    ) -> Trajectory:
        has_density = trajectories.stds > max(self.sample.min_std, 0.0)
        return Trajectory(
            latents=trajectories.latents,
            timesteps=trajectories.timesteps,
            log_probs=trajectories.log_probs.masked_fill_(~has_density.to(trajectories.log_probs.device), 0.0),
            trainable=has_density.cpu() if plan.needs_density else torch.ones(plan.steps, dtype=torch.bool),
            schedule=sampling_schedule(self.scheduler, recording.noises),
            x0=trajectories.x0,
            prompts=list(recording.prompts),
            metadata=list(metadata),
            recording=recording,
        )


def _require_callable(pipeline: DiffusionPipeline, sample: SampleSection, guidance: str) -> None:
    """Refuse what the pipeline's `__call__` or its schedule cannot take, before anything is sampled."""
    named = [name for name in inspect.signature(type(pipeline).__call__).parameters if name != "self"]
    ours = {**_OURS, guidance: "it is sample.guidance"}
    for name in sample.call:
        if name in ours:
            raise InputError(f"sample.call.{name} cannot be set: {ours[name]}")
        if name not in named:
            raise unknown(f"argument of {type(pipeline).__name__} in sample.call", name, set(named) - ours.keys())
    levels = pipeline.scheduler.config.num_train_timesteps
    if max(sample.steps, sample.evaluation_steps or 0) > levels:
        raise InputError(f"sample.steps is {sample.steps} but the model has only {levels} noise levels")
