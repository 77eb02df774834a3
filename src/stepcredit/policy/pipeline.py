"""A stock diffusers text-to-image pipeline as a policy."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from stepcredit.config import SampleSection
from stepcredit.errors import InputError, unknown
from stepcredit.maths import Transition
from stepcredit.policy.adapters import Adapter
from stepcredit.policy.reentry import Recording, record, replay
from stepcredit.policy.schedulers import RecordingDDIMScheduler
from stepcredit.policy.tape import Recorder
from stepcredit.types import Prompt, Rollout, Trajectory

_ALWAYS = "the policy gives it itself"
_OURS = {
    "prompt": "prompts come from prompts.source",
    "num_inference_steps": "it is sample.steps",
    "guidance_scale": "it is sample.guidance",
    "eta": "it is sample.eta",
    "num_images_per_prompt": "it is sample.images_per_prompt",
    **dict.fromkeys(("generator", "latents", "output_type", "return_dict"), _ALWAYS),
    **dict.fromkeys(("prompt_embeds", "negative_prompt_embeds", "timesteps", "sigmas"), "it cannot be replayed"),
}


class PipelinePolicy:
    """Rollouts run the pipeline as it stands, with a recording scheduler; replays re-enter it (see `reentry`).

    Between the two the pipeline has its own scheduler, so that it can be used or saved like any other.
    """

    def __init__(self, pipeline: DiffusionPipeline, adapter: Adapter, sample: SampleSection) -> None:
        _require_callable(pipeline, sample)
        pipeline.set_progress_bar_config(disable=True)
        self.pipeline = pipeline
        self.scheduler = RecordingDDIMScheduler.replacing(pipeline.scheduler)
        self.adapter = adapter
        self.sample = sample

    def rollout(self, prompts: Sequence[Prompt], seeds: Sequence[int], *, keep_x0: bool = False) -> Rollout:
        """One image per prompt, `sample.batch` at a time. Sample n draws all its noise from its own `seeds[n]`."""
        size = self.sample.batch or len(prompts)
        parts = [
            self._rollout_batch(prompts[start : start + size], seeds[start : start + size], keep_x0)
            for start in range(0, len(prompts), size)
        ]
        return parts[0] if len(parts) == 1 else _joined(parts)

    def replay(self, trajectory: Trajectory, step: int, rows: Tensor | None = None) -> Transition:
        recording: Recording = trajectory.recording
        latents = trajectory.latents[:, step]
        if rows is not None:
            recording, latents = recording.rows(rows), latents[rows]
        return replay(self.pipeline, self.scheduler, recording, latents, step)

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

    def _rollout_batch(self, prompts: Sequence[Prompt], seeds: Sequence[int], keep_x0: bool) -> Rollout:
        texts = [prompt.text for prompt in prompts]
        tape = Recorder(self.sample.eta, [torch.Generator().manual_seed(seed) for seed in seeds], keep_x0)
        try:
            output, recording = record(self.pipeline, self.scheduler, texts, self._call(), tape)
        except ValueError as error:
            if not self.sample.call:
                raise
            kind, reason = type(self.pipeline).__name__, " ".join(str(error).split())
            raise InputError(f"{kind} refuses sample.call: {reason}") from error
        trajectory = Trajectory(
            latents=torch.stack(tape.latents, dim=1),
            timesteps=torch.stack(tape.timesteps),
            log_probs=torch.stack(tape.log_probs, dim=1),
            trainable=torch.stack(tape.stochastic).cpu(),
            x0=torch.stack(tape.x0, dim=1) if keep_x0 else None,
            prompts=texts,
            metadata=[prompt.metadata for prompt in prompts],
            recording=recording,
        )
        return Rollout(trajectory, output.images.float())

    def _call(self) -> dict[str, Any]:
        return {
            **self.sample.call,
            "num_inference_steps": self.sample.steps,
            "guidance_scale": self.sample.guidance,
            "output_type": "pt",
        }


def _require_callable(pipeline: DiffusionPipeline, sample: SampleSection) -> None:
    """Refuse what the pipeline's `__call__` or its schedule cannot take, before anything is sampled."""
    named = [name for name in inspect.signature(type(pipeline).__call__).parameters if name != "self"]
    for name in sample.call:
        if name in _OURS:
            raise InputError(f"sample.call.{name} cannot be set: {_OURS[name]}")
        if name not in named:
            raise unknown(f"argument of {type(pipeline).__name__} in sample.call", name, set(named) - _OURS.keys())
    levels = pipeline.scheduler.config.num_train_timesteps
    if sample.steps > levels:
        raise InputError(f"sample.steps is {sample.steps} but the model has only {levels} noise levels")


def _joined(parts: Sequence[Rollout]) -> Rollout:
    walks = [part.trajectory for part in parts]
    trajectory = replace(
        walks[0],
        latents=torch.cat([walk.latents for walk in walks]),
        log_probs=torch.cat([walk.log_probs for walk in walks]),
        x0=None if walks[0].x0 is None else torch.cat([walk.x0 for walk in walks if walk.x0 is not None]),
        prompts=[prompt for walk in walks for prompt in walk.prompts],
        metadata=[entry for walk in walks for entry in walk.metadata],
        recording=Recording.joined([walk.recording for walk in walks]),
    )
    return Rollout(trajectory, torch.cat([part.images for part in parts]))
