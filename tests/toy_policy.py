"""A policy that trains in milliseconds. Its only weight is a target that pulls all trajectories.

    x0_i = target + x_i / 4,   x_{i+1} ~ N(x_i + (x0_i - x_i) / 2, 0.3^2)

Latents are (B, T+1, 1, 2, 2). An image has 8 x 8 pixels. A larger latent makes its quarter of the image redder and less
blue, so `warmth` rewards a large target.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from stepcredit.config import TrainConfig
from stepcredit.maths import Schedule, Transition, gaussian
from stepcredit.types import Plan, Prompt, Rollout, Trajectory

LATENT = (1, 2, 2)
STD = 0.3
WEIGHTS = "toy.safetensors"


class ToyPolicy:
    """Implements types.Policy.

    Attributes:
        last_std: standard deviation of the last step; 0 makes it untrainable.
        rollouts: (prompt texts, seeds) of all rollouts so far.
        replayed_with_x0: number of replays of a trajectory that still had its x0.
    """

    replay_modes: tuple[str, ...] = ("mixed-steps",)
    replay_mode: str = "mixed-steps"
    mixes_steps = True

    def __init__(self, steps: int = 4, last_std: float = STD) -> None:
        self.target = nn.Parameter(torch.zeros(LATENT))
        self.steps = steps
        self.last_std = last_std
        self.rollouts: list[tuple[list[str], list[int]]] = []
        self.replayed_with_x0 = 0

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
        self.rollouts.append(([prompt.text for prompt in prompts], list(seeds)))
        noise = torch.stack([_noise(seed, self.steps + 1) for seed in seeds])
        first = self.steps if plan is None or plan.trained_steps is None else plan.trained_steps
        latents, log_probs, x0 = [noise[:, 0]], [], []
        with torch.no_grad():
            for step in range(self.steps):
                transition = self._transition(latents[-1], step)
                latents.append(gaussian.sample(transition, noise[:, step + 1]))
                log_probs.append(gaussian.log_prob(latents[-1], transition.mean, transition.std))
                x0.append(transition.x0)
        trajectory = Trajectory(
            latents=torch.stack(latents, 1),
            timesteps=torch.arange(self.steps, 0, -1),
            log_probs=torch.stack(log_probs, 1),
            trainable=torch.tensor([self._std(step) > 0 and step < first for step in range(self.steps)]),
            schedule=Schedule(
                stds=torch.tensor([self._std(step) for step in range(self.steps)]),
                output_scales=torch.full((self.steps,), 0.5),
                step_sizes=torch.full((self.steps,), 1 / self.steps),
                alphas=torch.linspace(0, 1, self.steps + 1),
                sigmas=torch.linspace(1, 0, self.steps + 1),
            ),
            x0=torch.stack(x0, 1) if keep_x0 else None,
            prompts=[prompt.text for prompt in prompts],
            metadata=[prompt.metadata for prompt in prompts],
        )
        images = _image(trajectory.final)
        if on_batch is not None:
            on_batch(images, slice(0, len(prompts)))
        return Rollout(trajectory, images)

    def replay(self, trajectory: Trajectory, step: int | Tensor, rows: Tensor | None = None) -> Transition:
        self.replayed_with_x0 += trajectory.x0 is not None
        rows = torch.arange(len(trajectory)) if rows is None else rows
        return self._transition(trajectory.latents[rows, step], step)

    def predict(
        self,
        trajectory: Trajectory,
        latents: Tensor,
        step: int | Tensor,
        rows: Tensor | None = None,
        *,
        guided: bool = True,
    ) -> Transition:
        return self._transition(latents, step)

    def decode(self, latents: Tensor) -> Tensor:
        return _image(latents)

    @contextmanager
    def reference(self) -> Iterator[None]:
        trained = self.target.detach().clone()
        with torch.no_grad():
            self.target.zero_()
            yield
            self.target.copy_(trained)

    def averaged(self) -> AbstractContextManager[None]:
        return nullcontext()

    def stepped(self) -> None:
        return

    def parameters(self) -> list[nn.Parameter]:
        return [self.target]

    def state_dict(self) -> dict[str, Tensor]:
        return {"target": self.target.detach()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        with torch.no_grad():
            self.target.copy_(state["target"])

    def export(self, folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        save_file(self.state_dict(), folder / WEIGHTS)
        return folder / WEIGHTS

    def _transition(self, latents: Tensor, step: int | Tensor) -> Transition:
        x0 = self.target + latents / 4
        steps = [step] * len(latents) if isinstance(step, int) else step.tolist()
        stds = torch.tensor([self._std(step) for step in steps]).view(-1, 1, 1, 1)
        return Transition(latents + (x0 - latents) / 2, stds, x0, output=x0)

    def _std(self, step: int) -> float:
        return self.last_std if step == self.steps - 1 else STD


def toy_config(**sections: dict[str, Any]) -> TrainConfig:
    """Three epochs of 2 prompts x 4 images x 4 steps; `sections` overrides keys, by section."""
    base: dict[str, dict[str, Any]] = {
        "sample": {"steps": 4, "prompts_per_epoch": 2, "images_per_prompt": 4},
        "train": {"epochs": 3, "updates_per_epoch": 2, "learning_rate": 0.05, "min_count": 8, "weight_decay": 0.0},
        "credit": {"window": 2},
        "reward": {"name": "warmth"},
        "run": {"grid_images": 2},
    }
    names = {**base, **sections}
    return TrainConfig.model_validate({name: base.get(name, {}) | sections.get(name, {}) for name in names})


def _noise(seed: int, count: int) -> Tensor:
    return torch.randn(count, *LATENT, generator=torch.Generator().manual_seed(seed))


def _image(latents: Tensor) -> Tensor:
    """(B,1,2,2) -> (B,3,8,8) in [0,1]."""
    level = torch.sigmoid(latents).repeat_interleave(4, -1).repeat_interleave(4, -2)
    return torch.cat([level, torch.full_like(level, 0.5), 1 - level], dim=1)
