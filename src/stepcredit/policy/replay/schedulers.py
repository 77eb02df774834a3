"""Stock schedulers whose `step` is replaced by a hook.

Pipelines inspect the signatures of `set_timesteps` and `step`, so both keep their parents' parameters exactly. The hook
counts the steps, because looking them up by timestep would synchronize with the device at every step. Noise levels are
passed per row even if all rows are at one step: a replay may hold rows of several steps, and an accelerator may divide
by a scalar and by a tensor with different rounding.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, get_args

import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler
from diffusers.schedulers.scheduling_ddim import DDIMSchedulerOutput
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteSchedulerOutput
from torch import Tensor

from stepcredit.config import SampleSection
from stepcredit.errors import InputError
from stepcredit.maths import Schedule, Transition, ddim, schedules
from stepcredit.maths.flow import flow_step
from stepcredit.policy.replay.step_hooks import StepHook
from stepcredit.policy.samplers import FlowSampler, build_sampler


def recording_scheduler(stock: Any, sample: SampleSection) -> RecordingDDIMScheduler | RecordingFlowScheduler:
    """The recording scheduler with the noise schedule and prediction type of a pipeline's own scheduler.

    Flow-matching schedulers, and solvers with flow sigmas, become Euler steps on the same sigmas. All others become
    DDIM.

    Raises:
        InputError: neither supports the schedule or the prediction type.
    """
    kind = type(stock).__name__
    if is_flow(stock):
        if stock.config.get("invert_sigmas"):
            raise InputError(f"{kind} has invert_sigmas set, which cannot be sampled with noise")
        return RecordingFlowScheduler.replacing(stock, sample)
    if "beta_schedule" not in stock.config:
        raise InputError(f"the noise schedule of {kind} fits neither DDIM nor flow-matching steps")
    prediction = stock.config.get("prediction_type", "epsilon")
    if prediction not in get_args(ddim.PredictionType):
        known = ", ".join(get_args(ddim.PredictionType))
        raise InputError(f"the prediction type of {kind} is '{prediction}', expected one of: {known}")
    return RecordingDDIMScheduler.replacing(stock, sample)


def is_flow(stock: Any) -> bool:
    """Whether a scheduler belongs to a flow-matching model."""
    config = stock.config
    solver = config.get("use_flow_sigmas") or config.get("prediction_type") == "flow_prediction"
    return "FlowMatch" in type(stock).__name__ or bool(solver)


class _Schedules:
    """Caches schedules by the arguments of `set_timesteps`, so that a replay needs no arithmetic and no copy."""

    def __init__(self) -> None:
        self._cached: dict[Any, dict[str, Any]] = {}

    def restore(self, scheduler: Any, key: Any) -> bool:
        if key not in self._cached:
            return False
        for name, value in self._cached[key].items():
            setattr(scheduler, name, value)
        return True

    def save(self, scheduler: Any, key: Any, *names: str) -> None:
        self._cached[key] = {name: getattr(scheduler, name) for name in names}


class RecordingDDIMScheduler(DDIMScheduler):  # type: ignore[misc]  # diffusers has no types
    """DDIMScheduler that calls `hook` for every step. Without a hook it is the stock scheduler.

    The hook's noise replaces the pipeline's eta. `clip_sample` and `thresholding` are off: they are meant for pixels.
    """

    hook: StepHook | None = None
    timesteps: Tensor
    alphas: Tensor
    next_alphas: Tensor
    schedules: _Schedules

    @classmethod
    def replacing(cls, stock: Any, sample: SampleSection) -> RecordingDDIMScheduler:
        replacement: RecordingDDIMScheduler = cls.from_config(stock.config, clip_sample=False, thresholding=False)
        replacement.schedules = _Schedules()
        return replacement

    @property
    def description(self) -> str:
        return f"DDIM steps, {self.config.prediction_type} prediction"

    def noise_scale(self, sample: SampleSection) -> float:
        return sample.eta

    def usually_noisy(self, steps: int) -> range:
        return range(steps)

    def set_timesteps(self, num_inference_steps: int, device: str | torch.device | None = None) -> None:
        key = (num_inference_steps, str(device))
        if not self.schedules.restore(self, key):
            super().set_timesteps(num_inference_steps, device)
            levels = self.timesteps.cpu()
            next_levels = levels - self.config.num_train_timesteps // num_inference_steps
            next_alphas = self.alphas_cumprod[next_levels.clamp_min(0)]
            self.alphas = self.alphas_cumprod[levels]
            self.next_alphas = torch.where(next_levels >= 0, next_alphas, self.final_alpha_cumprod)
            self.schedules.save(self, key, "timesteps", "num_inference_steps", "alphas", "next_alphas")
        if self.hook is not None:
            self.timesteps = self.timesteps[self.hook.steps]

    def transition(self, model_output: Tensor, steps: Sequence[int], sample: Tensor, noise: float) -> Transition:
        """p(x_next | x), where row n is at step `steps[n]`."""
        at = torch.tensor(steps)
        kind = self.config.prediction_type
        return ddim.transition(model_output, sample, self.alphas[at], self.next_alphas[at], noise, kind)

    def noise_levels(self) -> tuple[Tensor, Tensor]:
        """(alphas, sigmas), see `Schedule`."""
        alphas_cumprod = torch.cat([self.alphas, self.next_alphas[-1:]])
        return alphas_cumprod.sqrt(), (1 - alphas_cumprod).sqrt()

    def step_size(self, position: int) -> float:
        levels = int(self.config.num_train_timesteps)
        return levels // int(self.num_inference_steps) / levels

    def step(
        self,
        model_output: Tensor,
        timestep: int,
        sample: Tensor,
        eta: float = 0.0,
        use_clipped_model_output: bool = False,
        generator: torch.Generator | None = None,
        variance_noise: Tensor | None = None,
        return_dict: bool = True,
    ) -> DDIMSchedulerOutput | tuple[Tensor, ...]:
        if self.hook is None:
            return super().step(
                model_output, timestep, sample, eta, use_clipped_model_output, generator, variance_noise, return_dict
            )
        next_sample, x0 = self.hook.step(self, model_output, timestep, sample)
        if not return_dict:
            return next_sample, x0
        return DDIMSchedulerOutput(prev_sample=next_sample, pred_original_sample=x0)


class RecordingFlowScheduler(FlowMatchEulerDiscreteScheduler):  # type: ignore[misc]
    """FlowMatchEulerDiscreteScheduler that calls `hook` for every step. Without a hook it is the stock scheduler.

    `sampler` makes the stochastic step, see `policy.samplers`. With noise 0 it is the stock Euler step.
    """

    hook: StepHook | None = None
    timesteps: Tensor
    sigmas: Tensor
    levels: Tensor
    schedules: _Schedules
    sampler: FlowSampler
    sampler_name: str

    @classmethod
    def replacing(cls, stock: Any, sample: SampleSection) -> RecordingFlowScheduler:
        parameters = inspect.signature(FlowMatchEulerDiscreteScheduler).parameters
        options = {name: value for name, value in stock.config.items() if name in parameters}
        if "FlowMatch" not in type(stock).__name__:
            options["shift"] = stock.config.get("flow_shift") or 1.0
        replacement: RecordingFlowScheduler = cls(**options)
        replacement.schedules = _Schedules()
        replacement.sampler, replacement.sampler_name = build_sampler(sample), sample.sampler
        return replacement

    @property
    def description(self) -> str:
        return f"{self.sampler_name} steps on flow-matching sigmas, velocity prediction"

    def noise_scale(self, sample: SampleSection) -> float:
        return sample.noise_level

    def usually_noisy(self, steps: int) -> range:
        return range(0)

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: str | torch.device | None = None,
        sigmas: list[float] | None = None,
        mu: float | None = None,
        timesteps: list[float] | None = None,
    ) -> None:
        key = (num_inference_steps, str(device), _hashable(sigmas), mu, _hashable(timesteps))
        if not self.schedules.restore(self, key):
            super().set_timesteps(num_inference_steps, device, sigmas, mu, timesteps)
            self.levels = self.sigmas.cpu()
            self.schedules.save(self, key, "timesteps", "sigmas", "num_inference_steps", "levels")
        self._step_index = self._begin_index = None
        if self.hook is not None:
            self.timesteps = self.timesteps[self.hook.steps]

    def transition(self, model_output: Tensor, steps: Sequence[int], sample: Tensor, noise: float) -> Transition:
        """p(x_next | x), where row n is at step `steps[n]`."""
        at = torch.tensor(steps)
        sigma, next_sigma = self.levels[at], self.levels[at + 1]
        step = flow_step(model_output, sample, sigma, next_sigma, self.levels[1])
        return step.euler() if noise == 0 else self.sampler(step, noise)

    def noise_levels(self) -> tuple[Tensor, Tensor]:
        """(alphas, sigmas), see `Schedule`."""
        return 1 - self.levels, self.levels

    def step_size(self, position: int) -> float:
        return float(self.levels[position] - self.levels[position + 1])

    def step(
        self,
        model_output: Tensor,
        timestep: float | Tensor,
        sample: Tensor,
        s_churn: float = 0.0,
        s_tmin: float = 0.0,
        s_tmax: float = float("inf"),
        s_noise: float = 1.0,
        generator: torch.Generator | None = None,
        per_token_timesteps: Tensor | None = None,
        return_dict: bool = True,
    ) -> FlowMatchEulerDiscreteSchedulerOutput | tuple[Tensor, ...]:
        if self.hook is None:
            return super().step(
                model_output,
                timestep,
                sample,
                s_churn,
                s_tmin,
                s_tmax,
                s_noise,
                generator,
                per_token_timesteps,
                return_dict,
            )
        next_sample, _ = self.hook.step(self, model_output, timestep, sample)
        return FlowMatchEulerDiscreteSchedulerOutput(prev_sample=next_sample) if return_dict else (next_sample,)


def sampling_schedule(scheduler: RecordingDDIMScheduler | RecordingFlowScheduler, noises: Sequence[float]) -> Schedule:
    """The schedule of the steps set last by `set_timesteps`, taken with these noise scales; float32, on the CPU."""
    one = torch.ones(1, 1, dtype=torch.float64)
    units = [scheduler.transition(one, [position], 0 * one, noise) for position, noise in enumerate(noises)]
    step_sizes = [scheduler.step_size(position) for position in range(len(noises))]
    return schedules.of_units(units, step_sizes, *scheduler.noise_levels())


def _hashable(values: Any) -> tuple[float, ...] | None:
    return None if values is None else tuple(float(value) for value in values)
