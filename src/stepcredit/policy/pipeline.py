"""A stock diffusers text-to-image pipeline as a policy."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from diffusers import DiffusionPipeline
from torch import Tensor, nn

from stepcredit.config import SampleSection
from stepcredit.distributed.process_group import is_lost_process
from stepcredit.errors import InputError, StepcreditError, caused_by, described
from stepcredit.families import family_of
from stepcredit.maths import Transition
from stepcredit.maths.indexing import entries
from stepcredit.policy.adapters import Adapter, AdapterWeights, denoiser_name
from stepcredit.policy.replay.denoiser_proxies import takes_time
from stepcredit.policy.replay.prompt_cache import EncodingStore, PromptCache, weight_versions
from stepcredit.policy.replay.recording import Recording
from stepcredit.policy.replay.reentry import Reentry, ReplayMode
from stepcredit.policy.replay.schedulers import recording_scheduler
from stepcredit.policy.replay.step_hooks import RecordingHook
from stepcredit.policy.replay.trajectory_buffer import TrajectoryBuffer
from stepcredit.policy.rgb import CHANNELS, to_rgb
from stepcredit.policy.sample_call import require_valid_call
from stepcredit.types import Plan, Prompt, Rollout, Trajectory
from stepcredit.utils.memory import out_of_memory

_IMAGE_DIMS = 4
log = logging.getLogger(__name__)


class PipelinePolicy(AdapterWeights):
    """Implements `types.Policy`. The pipeline itself never changes and can be used or saved like any other.

    A rollout runs the pipeline with a recording scheduler. Everything else re-enters it, see `replay.reentry`.

    Args:
        defaults: arguments of the pipeline's `__call__` that `sample.call` may override.
    """

    def __init__(
        self,
        pipeline: DiffusionPipeline,
        adapter: Adapter,
        sample: SampleSection,
        defaults: Mapping[str, Any] | None = None,
    ) -> None:
        self.family = family_of(pipeline)
        require_valid_call(pipeline, sample, self.family.guidance)
        self.pipeline = pipeline
        self.denoiser = denoiser_name(pipeline)
        self.scheduler = recording_scheduler(pipeline.scheduler, sample)
        self.adapter = adapter
        self.sample = sample
        mixing: tuple[ReplayMode, ...] = ("mixed-steps",) if takes_time(getattr(pipeline, self.denoiser)) else ()
        self.replay_modes: tuple[ReplayMode, ...] = (*mixing, "one-step", "full-loop")
        self.replay_mode: ReplayMode = self.replay_modes[0]
        self._defaults = {**self.family.call, **(defaults or {})}
        self._encodings = EncodingStore()
        self._noted_alpha = False
        self._reentry = Reentry(pipeline, self.denoiser, self.scheduler)

    @property
    def mixes_steps(self) -> bool:
        return self.replay_mode == "mixed-steps"

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
        """See `types.Policy`. Image n draws all its noise from its own `seeds[n]`.

        If the last batch is shorter than `plan.batch`, it is filled with copies of its last image, which are dropped
        afterwards: kernels round differently by batch size.
        """
        plan = plan or Plan(self.sample.steps, range(self.sample.steps))
        recording = self._recording([prompt.text for prompt in prompts], plan, among or prompts, self._encodings)
        buffer, images = TrajectoryBuffer(len(prompts), plan.steps, keep_x0), []
        for rows, numbers in _batches(len(prompts), plan.batch or len(prompts)):
            generators = [torch.Generator().manual_seed(seeds[number]) for number in numbers]
            hook = RecordingHook(recording.noises, generators, buffer, rows)
            batch = self._record(recording, [recording.prompts[number] for number in numbers], hook)
            images.append(batch[: rows.stop - rows.start])
            if on_batch is not None:
                on_batch(images[-1], rows)
        trajectory = self._trajectory(buffer, recording, plan, [prompt.metadata for prompt in prompts])
        return Rollout(trajectory, torch.cat(images))

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
        sampled = latents.to(trajectory.latents).contiguous()  # kernels round by dtype and memory layout
        with self._errors_in_one_line():
            return self._reentry.predict(recording.rows(rows), sampled, steps.tolist(), self.replay_mode)

    def decode(self, latents: Tensor) -> Tensor:
        """See `types.Policy`. Equal to the images of a rollout if `latents` are the final ones of one of its batches.

        Raises:
            InputError: `latents` require gradients and the pipeline decodes without.
        """
        recording = self._decoding.rows(torch.zeros(len(latents), dtype=torch.long))
        with self._errors_in_one_line():
            images = self._reentry.decode(recording, latents.contiguous())
        if torch.is_grad_enabled() and latents.requires_grad and not images.requires_grad:
            kind = type(self.pipeline).__name__
            raise InputError(f"{kind} decodes without gradients: a reward cannot be differentiated through it")
        return to_rgb(images)

    @cached_property
    def _decoding(self) -> Recording:
        """A recording of one empty prompt: decoding does not depend on it, but `__call__` requires one."""
        return self._recording([""], Plan(1, range(0)), [Prompt("")], EncodingStore()).without_guidance()

    def call_arguments(self, steps: int) -> dict[str, Any]:
        """The keyword arguments of the pipeline's `__call__` for `steps` steps, without prompt and generator."""
        return {
            **self._defaults,
            **self.sample.call,
            "num_inference_steps": steps,
            self.family.guidance: self.sample.guidance,
            "output_type": "pt",
        }

    def _recording(
        self, texts: Sequence[str], plan: Plan, among: Sequence[Prompt], encodings: EncodingStore
    ) -> Recording:
        call = self.call_arguments(plan.steps)
        encoded, weights = [prompt.text for prompt in among], weight_versions(self._encoders())
        recording = Recording(
            call=call,
            noises=self._noises(plan),
            prompts=tuple(texts),
            encodings=PromptCache(encoded, encodings, weights),
            device=self.pipeline._execution_device,
        )
        unguided_call = self.family.unguided_call(call)
        if unguided_call == call:
            return recording
        unguided = replace(recording, call=unguided_call, encodings=PromptCache(encoded, encodings, weights))
        return replace(recording, unguided=unguided)

    def _noises(self, plan: Plan) -> tuple[float, ...]:
        """The noise scale of every step."""
        scale = self.scheduler.noise_scale(self.sample)
        noisy = self.scheduler.usually_noisy(plan.steps) if plan.noisy is None else plan.noisy
        return tuple(scale if step in noisy else 0.0 for step in range(plan.steps))

    def _encoders(self) -> list[nn.Module]:
        """The text encoders: all modules except the denoiser and the VAE."""
        others = {name: part for name, part in self.pipeline.components.items() if name not in (self.denoiser, "vae")}
        return [part for part in others.values() if isinstance(part, nn.Module)]

    def _record(self, recording: Recording, texts: Sequence[str], hook: RecordingHook) -> Tensor:
        """Images (B,3,H,W) of one batch."""
        kind = type(self.pipeline).__name__
        with self._errors_in_one_line():
            images: Tensor = self._reentry.record(recording, texts, hook).images
        if hook.position != len(hook.noises):
            raise InputError(f"{kind} took {hook.position} steps, expected {len(hook.noises)}: it cannot be recorded")
        if images.ndim != _IMAGE_DIMS or images.shape[1] not in CHANNELS:
            raise InputError(f"{kind} returned images of shape {tuple(images.shape)}, expected (B, 3, H, W)")
        if images.shape[1] > min(CHANNELS) and not self._noted_alpha:
            self._noted_alpha = True
            log.warning("note: %s makes images with an alpha channel; they are put on a white background", kind)
        return to_rgb(images).float()

    @contextmanager
    def _errors_in_one_line(self) -> Iterator[None]:
        """Report what the pipeline raises in the block as an InputError."""
        try:
            yield
        except (StepcreditError, MemoryError):
            raise
        except Exception as error:  # the pipeline is the user's, and may raise anything
            if out_of_memory(error) or is_lost_process(error):
                raise
            call = f" with sample.call {self.sample.call}" if self.sample.call else ""
            problem = f"{type(self.pipeline).__name__} failed in its own __call__{call}: {described(error)}"
            raise caused_by(error, InputError(problem)) from error

    def _trajectory(
        self, buffer: TrajectoryBuffer, recording: Recording, plan: Plan, metadata: Sequence[dict[str, Any]]
    ) -> Trajectory:
        has_density = buffer.stds > max(self.sample.min_std, 0.0)
        trained = has_density.cpu().clone() if plan.needs_density else torch.ones(plan.steps, dtype=torch.bool)
        left_out = plan.needs_density and self.scheduler.leaves_out_last_step and not self.sample.train_last_step
        if left_out and trained[:-1].any():
            trained[-1] = False
        if plan.trained_steps is not None:
            trained[plan.trained_steps :] = False
        return Trajectory(
            latents=buffer.latents,
            timesteps=buffer.timesteps,
            log_probs=buffer.log_probs.masked_fill_(~has_density.to(buffer.log_probs.device), 0.0),
            trainable=trained,
            schedule=self.scheduler.schedule(recording.noises),
            x0=buffer.x0,
            prompts=list(recording.prompts),
            metadata=list(metadata),
            recording=recording,
        )


def _batches(count: int, size: int) -> Iterator[tuple[slice, list[int]]]:
    """(rows, numbers of the images to sample) of each batch; the numbers of the last are filled up to the size."""
    size = min(size, count)
    for start in range(0, count, size):
        yield slice(start, min(start + size, count)), [min(number, count - 1) for number in range(start, start + size)]
