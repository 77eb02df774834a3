"""Credit from a critic: each step trains on the reward that the critic did not expect."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from stepcredit.credit import CreditRule, register_credit
from stepcredit.credit._critic import Critic
from stepcredit.credit._similarity import predictions
from stepcredit.maths.critic import explained_variance, temporal_advantages
from stepcredit.types import Trajectory
from stepcredit.utils.seeds import Stream, epoch_generator


@register_credit("tdpo")
@dataclass(eq=False)
class TemporalCritic(CreditRule):
    """TDPO: the advantage minus what a critic expects from the image predicted at the step; not free.

        M_i = A - (1 - alpha) V(x0_i, i / T)

    V is a small network on the clean latents predicted at the step, averaged over cells to at most `grid` x `grid`. It
    regresses A, the return of every step, on the trajectories of each epoch, after the M of the epoch is computed. So V
    is a baseline, and the expected gradient is that of `uniform`. In the first epoch V is 0, which is `uniform`.

    Source: TDPO, arXiv 2402.08552, and its release. Three things differ. The critic there sees the CLIP embedding of
    x_i decoded by the VAE; here it sees the latents x0_i and the step. Its layers differ. There the policy and the
    critic are updated alternately, with M from the critic as it was when the trajectory was sampled; here M is the
    same, but all updates of the critic come before those of the policy.
    Degenerate case: a constant critic is `uniform` minus a constant.

    Attributes:
        alpha: in [0, 1]; 1 is no critic.
        learning_rate: of the critic.
        hidden: neurons in each of the critic's two hidden layers.
        grid: cells per side that larger latents (B, C, H, W) are averaged to; latents of other shapes are not averaged.
        passes: over all steps of an epoch.
        batch: steps per update of the critic.
        clip_range: the largest change of a value within an epoch that still has a gradient.
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

    needs_x0 = True

    def __post_init__(self) -> None:
        for name in ("hidden", "grid", "passes", "batch"):
            _require_count(self, name)
        for name in ("learning_rate", "clip_range"):
            _require(self, name, 0 < getattr(self, name) < float("inf"), "a number above 0")
        self._epochs = 0
        self._critic: Critic | None = None
        self._metrics: dict[str, float] = {}

    def __call__(self, trajectory: Trajectory, advantage: Tensor) -> Tensor:
        features = self._features(trajectory)
        values = torch.zeros(len(features)) if self._critic is None else self._critic.values(features)
        values = values.view(len(trajectory), trajectory.steps)
        return temporal_advantages(advantage, values.to(advantage.device), self.alpha)

    def learn(self, trajectory: Trajectory, advantage: Tensor) -> None:
        features = self._features(trajectory)
        targets = advantage.detach().cpu().float().repeat_interleave(trajectory.steps)
        critic = self._critic or self._new_critic(features.shape[1])
        explained = explained_variance(critic.values(features), targets)
        self._critic, self._epochs = critic, self._epochs + 1
        rng = epoch_generator(self.seed, Stream.CREDIT, self._epochs)
        for _ in range(self.passes):
            order = torch.from_numpy(rng.permutation(len(features)))
            critic.fit(features, targets, order.split(self.batch), self.clip_range)
        self._metrics = {"credit_critic_explained": explained, **self._after_learning(critic, features, rng)}

    def diagnostics(self, trajectory: Trajectory) -> dict[str, float]:
        """`credit_critic_explained`: variance of A that the critic explained before it learned from the last epoch."""
        return self._metrics

    def state_dict(self) -> dict[str, Tensor]:
        return {} if self._critic is None else {"epochs": torch.tensor(self._epochs), **self._critic.state_dict()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        if state:
            critic = self._new_critic(state["layers.0.weight"].shape[1])
            critic.load_state_dict(state)
            self._critic, self._epochs = critic, int(state["epochs"])

    def _after_learning(self, critic: Critic, features: Tensor, rng: np.random.Generator) -> dict[str, float]:
        """Hook for a subclass: change the critic after an epoch; returns further metrics."""
        return {}

    def _new_critic(self, features: int) -> Critic:
        return Critic(features, self.hidden, self.learning_rate, epoch_generator(self.seed, Stream.CREDIT, 0))

    def _features(self, trajectory: Trajectory) -> Tensor:
        """The critic's inputs, (B T, F), float32 on the CPU, ordered by image and then by step."""
        x0, steps = predictions(trajectory), trajectory.steps
        pooled = torch.stack([_pooled(x0[:, step].float(), self.grid) for step in range(steps)], dim=1).cpu()
        time = (torch.arange(steps) / steps).view(1, steps, 1).expand(len(pooled), -1, 1)
        return torch.cat([pooled, time], dim=2).flatten(0, 1)


@register_credit("tdpo-r")
@dataclass(eq=False)
class ResetTemporalCritic(TemporalCritic):
    """TDPO-R: `tdpo` that resets the active neurons of its critic every few epochs; not free.

    A hidden neuron is active if its mean output over the epoch's steps is more than `dormant` times that of its layer.
    After every `reset_every`-th epoch, active neurons get the incoming and outgoing weights of a new critic and lose
    their momentum. Dormant neurons do not change.

    Source: arXiv 2402.08552: the first images bias a critic's active neurons (primacy bias), and dormant neurons
    counteract this. There the activity is measured on one batch at one step.
    Degenerate case: if all neurons are reset, the critic is constant, because the output weights of a new critic are 0.

    Attributes:
        reset_every: epochs.
        dormant: at least 0; at 0 every neuron with a positive output is active.
    """

    reset_every: int = 10
    dormant: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_count(self, "reset_every")
        _require(self, "dormant", 0 <= self.dormant < float("inf"), "a number, 0 or more")

    def _after_learning(self, critic: Critic, features: Tensor, rng: np.random.Generator) -> dict[str, float]:
        """`credit_neurons_dormant`: share of hidden neurons before the reset. `credit_neurons_reset`: their number."""
        active = critic.active(features, self.dormant)
        due = self._epochs % self.reset_every == 0
        if due:
            critic.reset(active, rng)
        count = int(torch.cat(active).sum())
        share = 1 - count / (2 * self.hidden)
        return {"credit_neurons_dormant": share, "credit_neurons_reset": float(count if due else 0)}


def _pooled(latents: Tensor, grid: int) -> Tensor:
    """(B, F): latents (B, C, H, W) averaged over cells to at most `grid` x `grid`, others flattened."""
    if latents.ndim == 4 and max(latents.shape[2:]) > grid:
        height, width = (min(side, grid) for side in latents.shape[2:])
        latents = torch.nn.functional.adaptive_avg_pool2d(latents, (height, width))
    return latents.flatten(1)


def _require_count(rule: TemporalCritic, name: str) -> None:
    value = getattr(rule, name)
    _require(rule, name, isinstance(value, int) and value >= 1, "a whole number, 1 or more")


def _require(rule: TemporalCritic, name: str, valid: bool, expected: str) -> None:
    value = getattr(rule, name)
    if not valid or isinstance(value, bool):
        raise ValueError(f"credit.options.{name} is {value}, expected {expected}")
