"""The noise levels of a stock scheduler, read from it after its own `set_timesteps`.

A scheduler keeps its levels in one of three forms:

- `sigmas` of a flow: x = (1 - s) x0 + s eps;
- `sigmas` of a solver for a diffusion model: x = x0 + s eps, with alphas_cumprod = 1 / (1 + s^2);
- `timesteps` that index `alphas_cumprod`.

Second-order solvers evaluate the model twice per level, and some multistep solvers start with extra evaluations. Their
levels are counted once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from diffusers import LCMScheduler, TCDScheduler
from torch import Tensor

from stepcredit.errors import InputError
from stepcredit.maths.flow import ROUNDING


@dataclass(frozen=True)
class NoiseLevels:
    """The levels of T steps.

    Attributes:
        timesteps: (T,), the arguments of the denoiser, on the scheduler's device.
        values: (T + 1,) float32, on the CPU: the level before each step and after the last. s of a flow, falling;
            alphas_cumprod of a diffusion model, rising.
    """

    timesteps: Tensor
    values: Tensor


def flow_levels(stock: Any) -> NoiseLevels:
    """The levels of a flow-matching scheduler on which `set_timesteps` was called.

    Raises:
        InputError: the levels do not fall, or begin above 1.
    """
    timesteps, sigmas = _distinct(stock)
    if float(sigmas[0]) > 1 + ROUNDING:
        raise InputError(
            f"the noise levels of {type(stock).__name__} begin at {float(sigmas[0]):.4g}, expected at most 1 for a "
            "flow: use its flow sigmas alone (use_karras_sigmas, use_exponential_sigmas and the like unset)"
        )
    if not bool((sigmas.diff() < 0).all()):
        raise _unsuitable(stock)
    return _falling(stock, timesteps, sigmas.float(), sigmas)


def diffusion_levels(stock: Any) -> NoiseLevels:
    """The levels of a diffusion scheduler on which `set_timesteps` was called.

    Raises:
        InputError: the levels do not fall, or the scheduler has none.
    """
    if isinstance(getattr(stock, "sigmas", None), Tensor):
        timesteps, sigmas = _distinct(stock)
        return _falling(stock, timesteps, (1 / (1 + sigmas.double() ** 2)).float(), sigmas)
    timesteps = _evaluated_once(stock)
    alphas_cumprod = stock.alphas_cumprod.cpu()
    # A spacing with an offset may count one timestep beyond the last, as interpolating solvers allow.
    before = alphas_cumprod[timesteps.cpu().long().clamp(0, len(alphas_cumprod) - 1)]
    values = torch.cat([before, _final(stock, alphas_cumprod).view(1)])
    return _falling(stock, timesteps, values, 1 - values)


def _distinct(stock: Any) -> tuple[Tensor, Tensor]:
    """(timesteps (T,), sigmas (T + 1,)), each level once."""
    sigmas, timesteps = stock.sigmas.cpu(), stock.timesteps
    if getattr(stock, "order", 1) == 2:
        timesteps = timesteps[::2]
        sigmas = torch.cat([torch.unique_consecutive(sigmas[sigmas > 0]), sigmas.new_zeros(1)])
    if len(sigmas) != len(timesteps) + 1:
        raise InputError(
            f"{type(stock).__name__} has {len(sigmas)} noise levels for {len(timesteps)} timesteps, expected "
            f"{len(timesteps) + 1}: it cannot be sampled with noise, so give the pipeline another scheduler"
        )
    return timesteps, sigmas


def _evaluated_once(stock: Any) -> Tensor:
    """The timesteps without the extra evaluations of PNDM, which repeats some and takes half steps."""
    grid = getattr(stock, "_timesteps", None)
    if grid is None:
        timesteps: Tensor = stock.timesteps
        return timesteps
    falling = grid[::-1].copy() if not isinstance(grid, Tensor) else grid.flip(0)
    return torch.as_tensor(falling).to(stock.timesteps)


def _final(stock: Any, alphas_cumprod: Tensor) -> Tensor:
    """alphas_cumprod after the last step; 1 for schedulers that end in the clean image.

    The last steps of TCD and LCM do not use their `final_alpha_cumprod`.
    """
    if isinstance(stock, TCDScheduler):
        return alphas_cumprod[0]
    own = 1.0 if isinstance(stock, LCMScheduler) else getattr(stock, "final_alpha_cumprod", 1.0)
    return torch.as_tensor(own).to(alphas_cumprod)


def _falling(stock: Any, timesteps: Tensor, values: Tensor, noise: Tensor) -> NoiseLevels:
    if not bool((noise.diff() <= 0).all()):
        raise _unsuitable(stock)
    return NoiseLevels(timesteps, values)


def _unsuitable(stock: Any) -> InputError:
    return InputError(
        f"the noise levels of {type(stock).__name__} do not fall from step to step: it cannot be sampled with noise, "
        "so give the pipeline another scheduler"
    )
