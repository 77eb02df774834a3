"""Credit to the steps whose gradients agree between images; not free."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from stepcredit.credit import CREDIT
from stepcredit.credit._common import scale
from stepcredit.maths.signal import agreement, reliability_factors
from stepcredit.types import StepGradient, Trajectory


@dataclass
class _Memory:
    """Running sums (3,T) of what `agreement` said of each step, signal and power, and of how often; None before any."""

    sums: Tensor | None = None


@CREDIT.register("signal-to-noise")
@dataclass(frozen=True)
class SignalToNoise:
    """Steps by how far their gradients agree between images, measured from epoch to epoch; not free.

        M_i = A (alpha + (1 - alpha) m_i),   m = `reliability_factors` of running sums, scaled to mean 1

    Every epoch the policy gradient of each step alone is taken on `groups` disjoint groups of neighboring images,
    before the update and under plain A; what the groups have in common is signal. m_i is made of earlier epochs, so
    that it owes nothing to the rewards it scales; the first epoch is `uniform`, and so is one after the number of steps
    was changed. A step that is trained for the first time, as the noisy window moves, counts as the mean of the others.
    The cost is one more pass over the epoch's training, or over as many images of it as `images` says.
    Ours, no source.
    Degenerate case: steps of equal power and agreement are `uniform`.

    Attributes:
        alpha: in [0, 1]; 1 is no step credit.
        groups: of images, at least 2; an epoch of fewer images measures nothing.
        images: how many of an epoch are looked at; 0 is all.
        decay: of the running sums, in [0, 1): what an epoch remembers of those before it.
        prior: see `reliability_factors`.
    """

    alpha: float = 0.0
    groups: int = 4
    images: int = 0
    decay: float = 0.8
    prior: float = 1.0
    _memory: _Memory = field(default_factory=_Memory, init=False, repr=False, compare=False)

    needs_x0 = False

    def __post_init__(self) -> None:
        for name, right, kind in (
            ("groups", self.groups >= 2, "2 or more"),
            ("images", self.images >= 0, "0 or more"),
            ("decay", 0 <= self.decay < 1, "a number in [0, 1)"),
            ("prior", 0 <= self.prior < float("inf"), "a number of 0 or more"),
        ):
            if not right:
                raise ValueError(f"credit.options.{name} is {getattr(self, name)}, expected {kind}")

    def __call__(self, trajectory: Trajectory, advantage: Tensor) -> Tensor:
        """(Trajectory, advantage (B,)) -> (B, T)."""
        return scale(trajectory, advantage, self._factors(trajectory), self.alpha)

    def learn(self, trajectory: Trajectory, advantage: Tensor) -> None:
        """Nothing can be learned of trajectories alone."""

    def measure(self, trajectory: Trajectory, gradient: StepGradient) -> None:
        """Take in the epoch's gradients. Those that are not finite are left out, all of them."""
        rows = torch.arange(min(self.images or len(trajectory), len(trajectory)))
        if len(rows) < self.groups:
            return
        sums = self._sums(trajectory.steps).clone()
        for step in trajectory.trainable.nonzero().flatten().tolist():
            estimates = [gradient(group, step) for group in rows.tensor_split(self.groups)]
            found = torch.stack(agreement(estimates)).cpu()
            sums[:, step] = self.decay * sums[:, step] + torch.cat([found, torch.ones(1)])
        if sums.isfinite().all():
            self._memory.sums = sums

    def diagnostics(self, trajectory: Trajectory) -> dict[str, float]:
        """`credit_gradient_agreement`: signal over power of all steps, of the epochs so far."""
        signal, power, _ = self._sums(trajectory.steps)
        return {"credit_gradient_agreement": float(signal.sum() / power.sum())} if power.any() else {}

    def state_dict(self) -> dict[str, Tensor]:
        return {} if self._memory.sums is None else {"sums": self._memory.sums}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self._memory.sums = state.get("sums")

    def _factors(self, trajectory: Trajectory) -> Tensor:
        signal, power, times = self._sums(trajectory.steps)
        known = trajectory.trainable.cpu() & (times > 0)
        factors = reliability_factors(signal / times.clamp_min(1e-9), power / times.clamp_min(1e-9), self.prior)
        return torch.where(known, factors, factors[known].mean() if known.any() else 1.0)

    def _sums(self, steps: int) -> Tensor:
        sums = self._memory.sums
        return torch.zeros(3, steps) if sums is None or sums.shape[1] != steps else sums
