"""What a rollout passed through the pipeline, and a replay passes through it again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from stepcredit.policy.replay.denoiser_proxies import DenoiserCall
from stepcredit.policy.replay.prompt_cache import PromptCache


@dataclass(frozen=True)
class Recording:
    """What one rollout passed through the pipeline, besides latents.

    Attributes:
        call: keyword arguments of `__call__` without the prompt, see `arguments`.
        noises: the noise scale of every step.
        prompts: B texts.
        encodings: what `encode_prompt` returned.
        device: where the pipeline runs.
        unguided: the same with guidance off, or None if this is it.
        prepared: what `prepare_latents` returned in addition to latents, by batch size.
        denoiser_calls: the calls of the denoiser in the first batch, per step.
    """

    call: dict[str, Any]
    noises: tuple[float, ...]
    prompts: tuple[str, ...]
    encodings: PromptCache
    device: torch.device
    unguided: Recording | None = None
    prepared: dict[int, Any] = field(default_factory=dict)
    denoiser_calls: list[list[DenoiserCall]] = field(default_factory=list)

    def rows(self, rows: Tensor) -> Recording:
        """The recording of some of its images."""
        unguided = None if self.unguided is None else self.unguided.rows(rows)
        return replace(self, prompts=tuple(self.prompts[index] for index in rows.tolist()), unguided=unguided)

    def without_guidance(self) -> Recording:
        return self.unguided or self

    def arguments(self, prompts: Sequence[str]) -> dict[str, Any]:
        """Keyword arguments of `__call__` for a batch. A text is given once per image: some pipelines require it."""
        per_image = {
            name: [value] * len(prompts)
            for name, value in self.call.items()
            if name.startswith("negative_prompt") and isinstance(value, str)
        }
        return {"prompt": list(prompts), **self.call, **per_image}
