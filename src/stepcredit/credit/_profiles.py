"""How much each step counts in an update: values for metrics.jsonl."""

import torch
from torch import Tensor

from stepcredit.types import Trajectory


def step_profiles(trajectory: Trajectory, step_advantages: Tensor) -> dict[str, list[float]]:
    """How much each step counts in the update: T numbers per profile, scaled to mean 1 over the T steps.

    `credit_profile`: by the credit rule, the mean of |M_i| over images.
    `native_scale`: by the sampler, |d mean / d output| / std (`Schedule.native_scales`).
    `update_profile`: by both, their product.

    A step that is not trained, or whose native scale is infinite, counts 0. If all advantages are 0, `credit_profile`
    and `update_profile` are 0.
    """
    trained = trajectory.trainable.cpu()
    credit = mean_magnitude(step_advantages)
    native = trajectory.schedule.native_scales.cpu().double()
    profiles = {"credit_profile": credit, "native_scale": native, "update_profile": credit * native}
    return {name: _mean_one(torch.where(trained & native.isfinite(), values, 0)) for name, values in profiles.items()}


def mean_magnitude(step_advantages: Tensor) -> Tensor:
    """Mean of |M| over images: (B, T) -> (T,), float64, on the CPU."""
    return step_advantages.detach().cpu().double().abs().mean(0)


def _mean_one(values: Tensor) -> list[float]:
    mean = values.mean()
    return (values / mean if mean > 0 else values).tolist()
