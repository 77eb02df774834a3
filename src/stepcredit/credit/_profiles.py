"""What a rule comes to, step by step: figures for the metrics file."""

import torch
from torch import Tensor

from stepcredit.types import Trajectory


def step_profiles(trajectory: Trajectory, step_advantages: Tensor) -> dict[str, list[float]]:
    """How much each step counts in the update: T numbers each, scaled to mean 1 over the T steps.

    `credit_profile`: what credit makes of it, mean |M_i| over images.
    `native_scale`: what the sampler makes of it, |d mean / d output| / std (`Schedule.native_scales`).
    `update_profile`: both, their product.

    A step that is not trained, or of infinite native scale, counts 0. Where all advantages are 0, so do credit and
    update.
    """
    trained = trajectory.trainable.cpu()
    credit = step_advantages.detach().cpu().double().abs().mean(0)
    native = trajectory.schedule.native_scales.cpu().double()
    profiles = {"credit_profile": credit, "native_scale": native, "update_profile": credit * native}
    return {name: _mean_one(torch.where(trained & native.isfinite(), values, 0)) for name, values in profiles.items()}


def _mean_one(values: Tensor) -> list[float]:
    mean = values.mean()
    return (values / mean if mean > 0 else values).tolist()
