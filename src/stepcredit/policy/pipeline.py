"""A stock diffusers text-to-image pipeline as a policy."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from stepcredit.config import SampleSection
from stepcredit.maths import Transition
from stepcredit.policy.adapters import Adapter
from stepcredit.policy.reentry import Recording, record, replay
from stepcredit.policy.schedulers import RecordingDDIMScheduler
from stepcredit.policy.tape import Recorder
from stepcredit.types import Prompt, Rollout, Trajectory


class PipelinePolicy:
    """Rollouts run the pipeline as it stands, with a recording scheduler; replays re-enter it (see `reentry`)."""

    def __init__(self, pipeline: DiffusionPipeline, adapter: Adapter, sample: SampleSection) -> None:
        pipeline.scheduler = RecordingDDIMScheduler.replacing(pipeline.scheduler)
        pipeline.set_progress_bar_config(disable=True)
        self.pipeline = pipeline
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
        return replay(self.pipeline, recording, latents, step)

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
        output, recording = record(self.pipeline, texts, self._call(), tape)
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
