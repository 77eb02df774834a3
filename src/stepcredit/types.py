"""The data that the packages exchange, and the protocols of the parts that handle it.

B trajectories, T denoising steps (index 0 is the noisiest), *L the latent shape.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from stepcredit.maths import Schedule, Transition

__all__ = [
    "CreditAssigner",
    "LearningCredit",
    "MeasuringCredit",
    "Plan",
    "Policy",
    "Prompt",
    "RewardFunction",
    "Rollout",
    "Schedule",
    "StatefulCredit",
    "StepGradient",
    "Trajectory",
    "Transition",
]


@dataclass(frozen=True)
class Prompt:
    """A prompt and whatever its source says about it (passed on to rewards)."""

    text: str
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """How a rollout samples.

    Attributes:
        steps: denoising steps T.
        noisy: the steps that draw noise; the others are deterministic and have no density. None means what the model's
            usual sampler does: all steps for DDIM, none for a flow model.
        batch: images sampled at a time, in batches of exactly this size; None means all at once.
        needs_density: whether only steps with a usable density are trained. Otherwise every step is trained.
        trained_steps: train at most this many of the first, noisiest steps; None trains all.
    """

    steps: int
    noisy: range | None
    batch: int | None = None
    needs_density: bool = True
    trained_steps: int | None = None


@dataclass(frozen=True)
class Trajectory:
    """B denoising trajectories recorded from one rollout.

    Attributes:
        latents: (B, T+1, *L), x before step 0, then after each step, in the dtype the pipeline consumes.
        timesteps: (T,), the scheduler's timestep of each step.
        log_probs: (B, T) float32, mean over latent elements of log p(x_{i+1} | x_i); 0 where the step has no usable
            density, because it drew no noise or next to none.
        trainable: (T,) bool, the steps that are trained: those with a usable density, or all of them where the plan
            says that no density is needed.
        schedule: noise, output scale and length of each step.
        x0: (B, T, *L) predicted clean latents from the guided model output, or None if the credit rule needs none.
        prompts: B texts.
        metadata: B dicts from the prompt source.
        recording: what the policy needs to replay the steps; opaque to everybody else.
    """

    latents: Tensor
    timesteps: Tensor
    log_probs: Tensor
    trainable: Tensor
    schedule: Schedule
    x0: Tensor | None
    prompts: Sequence[str]
    metadata: Sequence[dict[str, Any]]
    recording: Any = None

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def steps(self) -> int:
        return len(self.timesteps)

    @property
    def final(self) -> Tensor:
        """(B, *L), the latents that are decoded."""
        return self.latents[:, -1]


@dataclass(frozen=True)
class Rollout:
    """A trajectory and the images (B,3,H,W) in [0,1] float32 it ended in."""

    trajectory: Trajectory
    images: Tensor


@runtime_checkable
class CreditAssigner(Protocol):
    """A credit rule: turns the advantage of each trajectory into one advantage per step.

    `stepcredit.credit.CreditRule` has defaults for all members but `__call__`.
    """

    @property
    def needs_x0(self) -> bool:
        """Whether the rule reads `trajectory.x0`. The rollout records it only then."""
        ...

    @property
    def compares_images(self) -> bool:
        """Whether an image's credit depends on other images. If so, every rank passes the images of all ranks."""
        ...

    @property
    def needs_density(self) -> bool:
        """Whether the rule reads `trajectory.schedule.stds` or `native_scales`, which are 0 at steps without noise."""
        ...

    def __call__(self, trajectory: Trajectory, advantage: Tensor) -> Tensor:
        """(Trajectory, advantage (B,)) -> step advantages (B, T)."""
        ...

    def diagnostics(self, trajectory: Trajectory) -> dict[str, float]:
        """Values for metrics.jsonl, named `credit_...`: counts are int, means over images are float."""
        ...


@runtime_checkable
class StatefulCredit(CreditAssigner, Protocol):
    """A rule with a state that changes from epoch to epoch. The state is part of every checkpoint."""

    def state_dict(self) -> dict[str, Tensor]:
        """The state by name; empty before the first epoch."""
        ...

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore what `state_dict` returned. Raises KeyError, RuntimeError or ValueError for another rule's state."""
        ...


@runtime_checkable
class LearningCredit(StatefulCredit, Protocol):
    """A rule that learns from trajectories and advantages. Every rank passes the images of all ranks."""

    def learn(self, trajectory: Trajectory, advantage: Tensor) -> None:
        """Learn from an epoch. Called after the epoch's step advantages are computed, so they do not depend on it."""
        ...


class StepGradient(Protocol):
    """(indices of images (n,), step) -> the policy gradient (P,) of that step alone, with plain advantages.

    Mean over the images. P is the number of trained weights, in the order of `policy.parameters()`.
    """

    def __call__(self, rows: Tensor, step: int) -> Tensor: ...


@runtime_checkable
class MeasuringCredit(StatefulCredit, Protocol):
    """A rule that measures policy gradients, which costs further passes over the training data."""

    def measure(self, trajectory: Trajectory, gradient: StepGradient) -> None:
        """Measure an epoch's gradients. Called after its step advantages are computed and before the update."""
        ...


class RewardFunction(Protocol):
    """(images (B,3,H,W) in [0,1], prompts, metadata) -> scores (B,), higher is better."""

    def __call__(self, images: Tensor, prompts: Sequence[str], metadata: Sequence[dict[str, Any]]) -> Tensor: ...


class Policy(Protocol):
    """A text-to-image model whose denoising steps can be sampled, and replayed with gradients.

    Attributes:
        replay_modes: ways to replay, the cheapest first. The replay check finds out which of them is exact.
        replay_mode: the mode in use.
        mixes_steps: whether one replay in this mode may contain images at different steps.
    """

    replay_modes: tuple[Any, ...]
    replay_mode: Any

    @property
    def mixes_steps(self) -> bool: ...

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
        """Sample one image per prompt without gradients. The same seed gives the same noise in any batch.

        Args:
            plan: by default the policy's usual steps, all of them noisy, and all images at once.
            keep_x0: whether to record the predicted clean latents.
            on_batch: called with the images of each finished batch and their rows.
            among: all prompts of the epoch, including those of other processes. They are encoded together, because
                encodings round differently for different batches, and must not depend on the number of processes.
        """
        ...

    def replay(self, trajectory: Trajectory, step: int | Tensor, rows: Tensor | None = None) -> Transition:
        """p(x_{step+1} | x_step) from the recorded latents (all, or those of `rows`) under the current weights.

        The result carries gradients if they are enabled. The log-probability of the recorded step is
        `gaussian.step_log_prob(replay, trajectory.latents[rows, step + 1])`.

        Args:
            step: one step for all rows, or one for each of `rows`; all equal unless `mixes_steps`.
        """
        ...

    def predict(
        self,
        trajectory: Trajectory,
        latents: Tensor,
        step: int | Tensor,
        rows: Tensor | None = None,
        *,
        guided: bool = True,
    ) -> Transition:
        """The transition from `latents` (n, *L) instead of the recorded ones, with the prompts of `rows`.

        `replay` is this at the recorded latents. The result carries gradients if they are enabled, by the weights and
        by `latents`.

        Args:
            step: one step for all rows, or one for each of `rows`; all equal unless `mixes_steps`.
            guided: use the guidance of the rollout. False gives the conditional prediction alone; the two are the same
                for a model that takes the guidance scale as an input.
        """
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Images (n,3,H,W) in [0,1] of latents (n, *L), with gradients if they are enabled."""
        ...

    def reference(self) -> AbstractContextManager[None]:
        """While active, the policy is the model before any training."""
        ...

    def averaged(self) -> AbstractContextManager[None]:
        """While active, the policy has the weights to evaluate and export: moving averages, if it keeps any."""
        ...

    def stepped(self) -> None:
        """Call after every optimizer step. Updates moving averages of the weights."""
        ...

    def parameters(self) -> list[torch.nn.Parameter]:
        """The trained parameters."""
        ...

    def state_dict(self) -> dict[str, Tensor]:
        """The trained weights by name, and their moving averages if it keeps any. Not allowed inside `averaged`."""
        ...

    def load_state_dict(self, state: dict[str, Tensor]) -> None: ...

    def export(self, folder: Path) -> Path:
        """Write the trained (`averaged`) weights into `folder` in diffusers' format, and return the path."""
        ...
