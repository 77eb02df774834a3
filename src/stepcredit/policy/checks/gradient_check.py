"""The check of gradients before training: they must be the derivative of what the pipeline samples."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from stepcredit.errors import InputError
from stepcredit.types import Policy, Trajectory

TOLERANCE = {torch.float32: 0.02, torch.float64: 0.02, torch.bfloat16: 0.3, torch.float16: 0.3}
"""Largest accepted relative difference between the derivatives, by the dtype of the latents."""

_BLIND_TOLERANCE = 0.002
"""The same if a module runs without gradients."""

_CHANGES = (1e-1, 3e-2, 1e-2, 1e-3, 1e-4, 1e-5)
"""Relative changes of f, until two successive ones agree. Curvature disturbs large ones, rounding small ones. Changes
below the resolution of the dtype are left out, because rounding could make two of them agree."""


def require_derivative(policy: Policy, trajectory: Trajectory, step: int) -> float:
    """The `derivative_ratio` of a policy, which is refused unless that is 1 or NaN.

    If a module runs without gradients, as the experts of HiDream do, a tenth of the tolerance for float32 is allowed:
    the part that is missing may be small along one direction and not along others.

    Raises:
        InputError: it differs from 1 by more than TOLERANCE. A part of the denoiser then computes without gradients, or
            its gradients are not those of its output.
    """
    ratio = derivative_ratio(policy, trajectory, step)
    if abs(ratio - 1) <= _BLIND_TOLERANCE:
        return ratio
    blind = _module_without_gradients(policy, trajectory, step)
    tolerance = _tolerance(trajectory) if blind is None else _BLIND_TOLERANCE
    if abs(ratio - 1) <= tolerance or (math.isnan(ratio) and blind is None):
        return ratio
    raise InputError(
        "the gradient is not the derivative of what this pipeline samples: along one direction of the trained weights "
        f"the output changes {ratio:.2f} times as much as the gradient says (allowed 1 +- {tolerance:g}). "
        f"{blind or 'A part of the denoiser'} computes without gradients, so training would go in a wrong direction: "
        "look for torch.no_grad or detach in its code, or train another model"
    )


def derivative_ratio(policy: Policy, trajectory: Trajectory, step: int) -> float:
    """A finite difference of one image's model output, divided by the derivative that autograd computes.

        f(w) = mean(output^2) / 2,   (f(w + h d) - f(w - h d)) / (2 h)   against   (grad f) . d

    The direction d is half the gradient and half random, so that the slope is large enough to measure and every trained
    weight takes part. The weights are restored bit for bit.

    Returns:
        1 if the gradient is right.

    Raises:
        InputError: the gradient is 0.

    Degenerate: NaN if no two successive finite differences agree, or if rounding removes the change of f. Both may
    happen in half precision.
    """
    weights = policy.parameters()
    value, gradient = _value_and_gradient(policy, trajectory, step, weights)
    direction = _direction(gradient)
    slope = sum(float((part * toward).sum()) for part, toward in zip(gradient, direction, strict=True))
    if not slope or not value:
        raise InputError(
            "the gradient of the trained weights is 0, so training would change nothing: train other layers "
            "(model.lora_targets, or model.adapter=full)"
        )
    before, smallest, agreement = math.inf, torch.finfo(trajectory.latents.dtype).eps, _tolerance(trajectory) / 3
    for change in (change for change in _CHANGES if change >= smallest):
        length = change * value / slope
        values = []
        for sign in (1, -1):
            with _moved(weights, direction, sign * length), torch.no_grad():
                values.append(float(_value(policy, trajectory, step)))
        if values[0] == values[1]:
            return math.nan
        ratio = (values[0] - values[1]) / (2 * length * slope)
        if abs(ratio - before) <= agreement:
            return ratio
        before = ratio
    return math.nan


def _module_without_gradients(policy: Policy, trajectory: Trajectory, step: int) -> str | None:
    """Class of the first module with weights that runs while gradients are off, in a replay with gradients."""
    found: list[str] = []

    def note(module: nn.Module, _: object) -> None:
        if not torch.is_grad_enabled() and next(module.parameters(), None) is not None:
            found.append(type(module).__name__)

    hook = register_module_forward_pre_hook(note)
    try:
        with torch.enable_grad():
            _value(policy, trajectory, step)
    finally:
        hook.remove()
    return found[0] if found else None


def _tolerance(trajectory: Trajectory) -> float:
    return TOLERANCE.get(trajectory.latents.dtype, max(TOLERANCE.values()))


def _value(policy: Policy, trajectory: Trajectory, step: int) -> Tensor:
    output = policy.replay(trajectory, torch.tensor([step]), torch.tensor([0])).output
    return output.double().square().mean() / 2


def _value_and_gradient(
    policy: Policy, trajectory: Trajectory, step: int, weights: Sequence[nn.Parameter]
) -> tuple[float, list[Tensor]]:
    with torch.enable_grad():
        value = _value(policy, trajectory, step)
        found = torch.autograd.grad(value, weights, allow_unused=True)
    parts = zip(found, weights, strict=True)
    return float(value.detach()), [torch.zeros_like(weight) if part is None else part for part, weight in parts]


def _direction(gradient: Sequence[Tensor]) -> list[Tensor]:
    """Unit vector: the normalized gradient plus a normalized random vector."""
    generator = torch.Generator().manual_seed(0)
    noise = [torch.randn(part.shape, generator=generator).to(part) for part in gradient]
    size, other = _norm(gradient) or 1.0, _norm(noise)
    mixed = [part / size + random / other for part, random in zip(gradient, noise, strict=True)]
    length = _norm(mixed)
    return [part / length for part in mixed]


def _norm(parts: Sequence[Tensor]) -> float:
    return math.sqrt(sum(float(part.double().square().sum()) for part in parts))


@contextmanager
def _moved(weights: Sequence[nn.Parameter], direction: Sequence[Tensor], length: float) -> Iterator[None]:
    before = [weight.detach().clone() for weight in weights]
    try:
        with torch.no_grad():
            for weight, toward in zip(weights, direction, strict=True):
                weight.add_(toward, alpha=length)
        yield
    finally:
        with torch.no_grad():
            for weight, value in zip(weights, before, strict=True):
                weight.copy_(value)
