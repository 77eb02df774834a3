"""Credit to the steps whose gradients agree between images; costs further training passes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from stepcredit.credit import FactorRule, register_credit
from stepcredit.maths.gradient_signal import agreement, reliability_factors
from stepcredit.types import StepGradient, Trajectory


@register_credit("signal-to-noise")
@dataclass(eq=False)
class SignalToNoise(FactorRule):
    """Steps whose gradients agree between images count more, as measured in earlier epochs; not free.

        m = `reliability_factors` of running sums, scaled to mean 1,   M_i = A (alpha + (1 - alpha) m_i)

    In every epoch, before the update, the policy gradient of each step alone is computed on `groups` disjoint groups of
    consecutive images, with plain A. What the groups have in common is signal. An epoch uses the measurements of
    earlier epochs only, so that its factors do not depend on the rewards that they scale. The first epoch is `uniform`,
    and so is the first epoch after the number of steps changed. A step that is trained for the first time, because the
    noisy window moved, gets the mean factor of the others. The cost is one more pass over the epoch's training data, or
    over the first `images` images of it.

    Source: ours.
    Degenerate case: steps of equal power and agreement are `uniform`.

    Attributes:
        alpha: in [0, 1]; 1 is no step credit.
        groups: number of groups, at least 2. An epoch with fewer images is not measured.
        images: number of images to measure in each epoch; 0 means all.
        decay: of the running sums, in [0, 1): the share of earlier epochs that each epoch keeps.
        prior: see `reliability_factors`.
    """

    alpha: float = 0.0
    groups: int = 4
    images: int = 0
    decay: float = 0.8
    prior: float = 1.0

    def __post_init__(self) -> None:
        for name, valid, expected in (
            ("groups", self.groups >= 2, "2 or more"),
            ("images", self.images >= 0, "0 or more"),
            ("decay", 0 <= self.decay < 1, "a number in [0, 1)"),
            ("prior", 0 <= self.prior < float("inf"), "a number of 0 or more"),
        ):
            if not valid:
                raise ValueError(f"credit.options.{name} is {getattr(self, name)}, expected {expected}")
        self._sums: Tensor | None = None  # (3, T): running sums of signal, power, and number of measurements

    def factors(self, trajectory: Trajectory) -> Tensor:
        signal, power, times = self._sums_for(trajectory.steps)
        known = trajectory.trainable.cpu() & (times > 0)
        factors = reliability_factors(signal / times.clamp_min(1e-9), power / times.clamp_min(1e-9), self.prior)
        return torch.where(known, factors, factors[known].mean() if known.any() else 1.0)

    def measure(self, trajectory: Trajectory, gradient: StepGradient) -> None:
        """Add the epoch's gradients to the running sums. If any of them is not finite, the epoch is skipped."""
        rows = torch.arange(min(self.images or len(trajectory), len(trajectory)))
        if len(rows) < self.groups:
            return
        sums = self._sums_for(trajectory.steps).clone()
        for step in trajectory.trainable.nonzero().flatten().tolist():
            gradients = [gradient(group, step) for group in rows.tensor_split(self.groups)]
            measured = torch.stack(agreement(gradients)).cpu()
            sums[:, step] = self.decay * sums[:, step] + torch.cat([measured, torch.ones(1)])
        if sums.isfinite().all():
            self._sums = sums

    def diagnostics(self, trajectory: Trajectory) -> dict[str, float]:
        """`credit_gradient_agreement`: signal over power, of all steps and epochs so far."""
        signal, power, _ = self._sums_for(trajectory.steps)
        return {"credit_gradient_agreement": float(signal.sum() / power.sum())} if power.any() else {}

    def state_dict(self) -> dict[str, Tensor]:
        return {} if self._sums is None else {"sums": self._sums}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self._sums = state.get("sums")

    def _sums_for(self, steps: int) -> Tensor:
        if self._sums is None or self._sums.shape[1] != steps:
            return torch.zeros(3, steps)
        return self._sums
