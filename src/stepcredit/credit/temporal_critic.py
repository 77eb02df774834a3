"""A critic that expects, at every step, what the image will be worth; a step trains on what was not expected."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from stepcredit.credit import CREDIT
from stepcredit.credit._common import predictions
from stepcredit.credit._critic import Critic
from stepcredit.maths.critic import explained_variance, temporal_advantages
from stepcredit.types import Trajectory
from stepcredit.utils.seeds import Stream, epoch_generator


@dataclass
class _Memory:
    """What a rule has learned: `epochs` so far, and the critic that came of them."""

    epochs: int = 0
    critic: Critic | None = None
    figures: dict[str, float] = field(default_factory=dict)


@CREDIT.register("tdpo")
@dataclass(frozen=True)
class TemporalCritic:
    """TDPO: the advantage less what a critic expected of each step's predicted image; not free.

        M_i = A - (1 - alpha) V(x0_i, i / T)

    V is a small network on the clean latents predicted at the step, averaged over cells to at most `grid` x `grid`. It
    regresses A, which is the return of every step, on the trajectories of each epoch, after their own M was taken: V is
    a baseline, the expected gradient is that of `uniform`, and so is the whole first epoch, in which V is 0.

    Source: TDPO, arXiv 2402.08552, and its release. Ours differs in what the critic looks at (there the CLIP embedding
    of x_i decoded by the VAE, here latents of x0_i, and the step), in its layers, and in that the update of M comes
    after all of V's (there they alternate, with V as it was when the trajectory was sampled: as here).

    Degenerate case: a critic that says the same everywhere is `uniform` less a constant.

    Attributes:
        alpha: in [0, 1]; 1 is no critic.
        learning_rate: of the critic.
        hidden: neurons of each of its two hidden layers.
        grid: cells per side that larger latents (B, C, H, W) are averaged to; latents of another layout are left alone.
        passes: over an epoch's steps, all of them together.
        batch: steps per update of the critic.
        clip_range: how far an epoch's learning may move a value before it has no gradient left.
        seed: of the run.
    """

    alpha: float = 0.0
    learning_rate: float = 1e-3
    hidden: int = 64
    grid: int = 16
    passes: int = 5
    batch: int = 64
    clip_range: float = 0.2
    seed: int = 0
    _memory: _Memory = field(default_factory=_Memory, init=False, repr=False, compare=False)

    needs_x0 = True

    def __post_init__(self) -> None:
        for name in ("hidden", "grid", "passes", "batch"):
            _require(self, name, isinstance(getattr(self, name), int), 1, "a whole number")
        for name in ("learning_rate", "clip_range"):
            _require(self, name, True, np.nextafter(0, 1), "a number above 0")

    def __call__(self, trajectory: Trajectory, advantage: Tensor) -> Tensor:
        """(Trajectory with x0, advantage (B,)) -> (B, T)."""
        features = self._features(trajectory)
        critic = self._memory.critic
        values = torch.zeros(len(features)) if critic is None else critic.values(features)
        values = values.view(len(trajectory), trajectory.steps)
        return temporal_advantages(advantage, values.to(advantage.device), self.alpha)

    def learn(self, trajectory: Trajectory, advantage: Tensor) -> None:
        memory, features = self._memory, self._features(trajectory)
        targets = advantage.detach().cpu().float().repeat_interleave(trajectory.steps)
        critic = memory.critic or self._new(features.shape[1])
        foreseen = explained_variance(critic.values(features), targets)
        memory.critic, memory.epochs = critic, memory.epochs + 1
        rng = epoch_generator(self.seed, Stream.CREDIT, memory.epochs)
        for _ in range(self.passes):
            order = torch.from_numpy(rng.permutation(len(features)))
            critic.fit(features, targets, order.split(self.batch), self.clip_range)
        memory.figures = {"credit_critic_explained": foreseen, **self._learned(critic, features, rng)}

    def diagnostics(self, trajectory: Trajectory) -> dict[str, float]:
        """Of the epoch learned last: `credit_critic_explained` is the explained variance of A before it was learned."""
        return self._memory.figures

    def state_dict(self) -> dict[str, Tensor]:
        memory = self._memory
        return {} if memory.critic is None else {"epochs": torch.tensor(memory.epochs), **memory.critic.state_dict()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        if state:
            critic = self._new(state["layers.0.weight"].shape[1])
            critic.load_state_dict(state)
            self._memory.critic, self._memory.epochs = critic, int(state["epochs"])

    def _learned(self, critic: Critic, features: Tensor, rng: np.random.Generator) -> dict[str, float]:
        """What else is done with a critic that has learned, and figures of it."""
        return {}

    def _new(self, features: int) -> Critic:
        return Critic(features, self.hidden, self.learning_rate, epoch_generator(self.seed, Stream.CREDIT, 0))

    def _features(self, trajectory: Trajectory) -> Tensor:
        """(B T, F), float32 on the CPU: image by image, and step by step within."""
        x0, steps = predictions(trajectory), trajectory.steps
        looks = torch.stack([_pooled(x0[:, step].float(), self.grid) for step in range(steps)], dim=1).cpu()
        when = (torch.arange(steps) / steps).view(1, steps, 1).expand(len(looks), -1, 1)
        return torch.cat([looks, when], dim=2).flatten(0, 1)


@CREDIT.register("tdpo-r")
@dataclass(frozen=True)
class ResetTemporalCritic(TemporalCritic):
    """TDPO-R: `tdpo` whose critic forgets, its active neurons reset every few epochs; not free.

    A hidden neuron is active if its mean output over the epoch's steps is more than `dormant` times that of its layer.
    After every `reset_every`-th epoch active neurons get the weights of a new critic, in and out, and their momentum is
    lost; dormant ones stay. Source: arXiv 2402.08552, where the first images bias a critic's active neurons (primacy)
    and dormant ones hold it back. There the activity is taken over one batch at one step.

    Degenerate case: as the output layer of a new critic is 0, one all of whose neurons were reset says a constant: its
    output bias.

    Attributes:
        reset_every: epochs.
        dormant: at least 0; 0 makes every neuron active that is not silent.
    """

    reset_every: int = 10
    dormant: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(self, "reset_every", isinstance(self.reset_every, int), 1, "a whole number")
        _require(self, "dormant", True, 0, "a number")

    def _learned(self, critic: Critic, features: Tensor, rng: np.random.Generator) -> dict[str, float]:
        """`credit_neurons_dormant`, the share of hidden neurons, before `credit_neurons_reset` of them were reset."""
        active = critic.active(features, self.dormant)
        due = self._memory.epochs % self.reset_every == 0
        if due:
            critic.reset(active, rng)
        count = int(torch.cat(active).sum())
        share = 1 - count / (2 * self.hidden)
        return {"credit_neurons_dormant": share, "credit_neurons_reset": float(count if due else 0)}


def _pooled(latents: Tensor, grid: int) -> Tensor:
    """(B, F): latents (B, C, H, W) averaged over cells to at most `grid` x `grid`, any others as they are."""
    if latents.ndim == 4 and max(latents.shape[2:]) > grid:
        height, width = (min(side, grid) for side in latents.shape[2:])
        latents = torch.nn.functional.adaptive_avg_pool2d(latents, (height, width))
    return latents.flatten(1)


def _require(rule: TemporalCritic, name: str, right: bool, least: float, kind: str) -> None:
    value = getattr(rule, name)
    if not right or isinstance(value, bool) or not least <= value < float("inf"):
        bound = "" if "above" in kind else f", {least:g} or more"
        raise ValueError(f"credit.options.{name} is {value}, expected {kind}{bound}")
