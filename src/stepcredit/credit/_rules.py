"""Base classes of credit rules. A rule derives from the one that says what kind of rule it is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from stepcredit.errors import InputError, caused_by
from stepcredit.maths.credit import scaled_advantages, step_advantages
from stepcredit.maths.schedules import mean_one
from stepcredit.types import Trajectory


class CreditRule(ABC):
    """A rule that returns step advantages M (B, T) of its own making. See `stepcredit.types.CreditAssigner`.

    A subclass overrides the class attributes and `diagnostics` where the defaults do not fit.
    """

    @property
    def needs_x0(self) -> bool:
        """Whether the rule reads `trajectory.x0`. The rollout records it only then."""
        return False

    @property
    def compares_images(self) -> bool:
        """Whether an image's credit depends on other images. If so, every rank passes the images of all ranks."""
        return False

    @property
    def needs_density(self) -> bool:
        """Whether the rule reads `trajectory.schedule.stds` or `native_scales`, which are 0 at steps without noise."""
        return False

    @abstractmethod
    def __call__(self, trajectory: Trajectory, advantage: Tensor) -> Tensor:
        """(Trajectory, advantage (B,)) -> step advantages (B, T), float32."""

    def diagnostics(self, trajectory: Trajectory) -> dict[str, float]:
        """Values for metrics.jsonl, named `credit_...`: counts are int, means over images are float."""
        return {}


class WeightRule(CreditRule):
    """A rule that says what share of the reward each step earned. A step trains on what was not yet earned before it.

        G_i = sum over j >= i of w_j,   M_i = A (alpha + (1 - alpha) G_i)

    A step without noise (`trajectory.trainable` is False) keeps its weight: what it earned was decided by the steps
    before it, which train on it through G.

    Attributes:
        alpha: in [0, 1]; 1 is no step credit, exactly.
    """

    alpha: float

    @abstractmethod
    def weights(self, trajectory: Trajectory) -> Tensor:
        """Shares w, (B, T) or (1, T). Each row sums to 1."""

    def __call__(self, trajectory: Trajectory, advantage: Tensor) -> Tensor:
        """M (B, T), float32, on the device of `advantage`. Raises ValueError unless `advantage` is (B,)."""
        require_one_each(trajectory, advantage)
        weights = self.weights(trajectory).to(advantage.device)
        return step_advantages(advantage, weights.expand(len(trajectory), -1), self.alpha)


class FactorRule(CreditRule):
    """A rule that scales the advantage of each step by a factor.

        m_i = f_i / (mean of f over the trained steps), 0 at the others,   M_i = A (alpha + (1 - alpha) m_i)

    Attributes:
        alpha: in [0, 1]; 1 is no step credit, exactly.
    """

    alpha: float

    @abstractmethod
    def factors(self, trajectory: Trajectory) -> Tensor:
        """Factors f, (T,) or (B, T), non-negative. Their scale does not matter."""

    def __call__(self, trajectory: Trajectory, advantage: Tensor) -> Tensor:
        """M (B, T), float32, on the device of `advantage`. Raises ValueError unless `advantage` is (B,)."""
        require_one_each(trajectory, advantage)
        factors = self.factors(trajectory)
        factors = mean_one(factors, trajectory.trainable.to(factors.device)).to(advantage.device)
        return scaled_advantages(advantage, factors.expand(len(trajectory), -1), self.alpha)


class FunctionRule(CreditRule):
    """A plain function `(trajectory, advantage) -> step advantages`, as a rule.

    A function declares nothing, so it gets everything: predicted clean latents, and the images of all ranks.
    """

    needs_x0 = True
    compares_images = True

    def __init__(self, function: Callable[..., Any], name: str) -> None:
        self.function = function
        self.name = name

    def __call__(self, trajectory: Trajectory, advantage: Tensor) -> Tensor:
        """The function's result in float32 on the device of `advantage`.

        Raises:
            InputError: the function raised an exception, or did not return a finite tensor (B, T).
        """
        try:
            result = self.function(trajectory, advantage)
        except (Exception, SystemExit) as error:
            problem = InputError(f"credit rule '{self.name}' raised {type(error).__name__}: {error}")
            raise caused_by(error, problem) from error
        return require_step_advantages(result, trajectory, self.name).detach().to(advantage.device, advantage.dtype)


def require_step_advantages(result: Any, trajectory: Trajectory, name: str) -> Tensor:
    """`result`; InputError unless it is a finite tensor (B, T).

    Args:
        name: how errors name the rule.
    """
    expected = (len(trajectory), trajectory.steps)
    if not isinstance(result, Tensor) or tuple(result.shape) != expected:
        found = f"shape {tuple(result.shape)}" if isinstance(result, Tensor) else f"a {type(result).__name__}"
        raise InputError(f"credit rule '{name}' returned {found}, expected a tensor (B, T) = {expected}")
    if result.is_complex() or result.layout != torch.strided:
        raise InputError(f"credit rule '{name}' returned a complex or sparse tensor, expected real, dense numbers")
    if not result.isfinite().all():
        raise InputError(
            f"credit rule '{name}' returned step advantages that are not finite, expected no NaN and no infinity"
        )
    return result


def require_one_each(trajectory: Trajectory, advantage: Tensor) -> None:
    """ValueError unless `advantage` is (B,)."""
    if advantage.shape != (len(trajectory),):
        raise ValueError(
            f"advantage has shape {tuple(advantage.shape)}, expected ({len(trajectory)},): give one per trajectory"
        )
