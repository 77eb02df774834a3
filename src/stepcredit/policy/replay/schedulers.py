"""Stock schedulers whose `step` hands the stochastic transition to a hook.

Pipelines look at the signatures of `set_timesteps` and `step`, so both keep their parents' parameters exactly. The
steps of a schedule are numbered by the hook, not looked up by timestep: that would wait for the device at every step.
Noise levels are given row by row even where all rows are at one step: an accelerator may divide by a single number in
another way than by a row of them, and a replay may hold rows of several steps.
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
from stepcredit.maths import Schedule, Transition, ddim, flow, schedules
from stepcredit.policy.replay.step_hooks import StepHook


def recording_scheduler(stock: Any, sample: SampleSection) -> RecordingDDIMScheduler | RecordingFlowScheduler:
    """The recording scheduler with the noise schedule and prediction type of a pipeline's own one.

    Flow-matching schedulers, and solvers set to flow sigmas, become Euler steps on the same sigmas; all others become
    DDIM. Raises InputError for a schedule that neither can take.
    """
    kind = type(stock).__name__
    if is_flow(stock):
        if stock.config.get("invert_sigmas"):
            raise InputError(f"{kind} inverts its sigmas: its steps cannot be sampled with noise here")
        return RecordingFlowScheduler.replacing(stock, sample)
    if "beta_schedule" not in stock.config:
        raise InputError(f"the pipeline comes with {kind}, whose noise schedule neither DDIM nor flow steps can take")
    prediction = stock.config.get("prediction_type", "epsilon")
    if prediction not in get_args(ddim.PredictionType):
        known = ", ".join(get_args(ddim.PredictionType))
        raise InputError(f"the model predicts '{prediction}'; DDIM can sample: {known}")
    return RecordingDDIMScheduler.replacing(stock, sample)


def is_flow(stock: Any) -> bool:
    """Whether a scheduler is of a flow-matching model."""
    config = stock.config
    solver = config.get("use_flow_sigmas") or config.get("prediction_type") == "flow_prediction"
    return "FlowMatch" in type(stock).__name__ or bool(solver)


class _Schedules:
    """Schedules already computed, by the arguments of `set_timesteps`: a replay needs no arithmetic and no copy."""

    def __init__(self) -> None:
        self._known: dict[Any, dict[str, Any]] = {}

    def restore(self, scheduler: Any, key: Any) -> bool:
        if key not in self._known:
            return False
        for name, value in self._known[key].items():
            setattr(scheduler, name, value)
        return True

    def keep(self, scheduler: Any, key: Any, *names: str) -> None:
        self._known[key] = {name: getattr(scheduler, name) for name in names}


class RecordingDDIMScheduler(DDIMScheduler):  # type: ignore[misc]  # diffusers has no types
    """DDIMScheduler that, while `hook` is set, samples through it; without a hook it is the stock scheduler.

    The hook's noise replaces the pipeline's eta. Latents are never clipped: `clip_sample` and `thresholding` are for
    pixels.
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
            following = levels - self.config.num_train_timesteps // num_inference_steps
            cleaner = self.alphas_cumprod[following.clamp_min(0)]
            self.alphas = self.alphas_cumprod[levels]
            self.next_alphas = torch.where(following >= 0, cleaner, self.final_alpha_cumprod)
            self.schedules.keep(self, key, "timesteps", "num_inference_steps", "alphas", "next_alphas")
        if self.hook is not None:
            self.timesteps = self.timesteps[self.hook.steps]

    def transition(self, model_output: Tensor, steps: Sequence[int], sample: Tensor, noise: float) -> Transition:
        """p(x_next | x), each row at the step of this schedule whose number `steps` gives."""
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
    """FlowMatchEulerDiscreteScheduler that, while `hook` is set, takes stochastic steps on the same sigmas through it.

    Which stochastic step is `sampler` (see `maths.flow`). Where the hook's noise is 0 the step is the stock Euler step.
    """

    hook: StepHook | None = None
    timesteps: Tensor
    sigmas: Tensor
    levels: Tensor
    schedules: _Schedules
    sampler: flow.SamplerName

    @classmethod
    def replacing(cls, stock: Any, sample: SampleSection) -> RecordingFlowScheduler:
        known = inspect.signature(FlowMatchEulerDiscreteScheduler).parameters
        options = {name: value for name, value in stock.config.items() if name in known}
        if "FlowMatch" not in type(stock).__name__:
            options["shift"] = stock.config.get("flow_shift") or 1.0
        replacement: RecordingFlowScheduler = cls(**options)
        replacement.schedules = _Schedules()
        replacement.sampler = sample.sampler
        return replacement

    @property
    def description(self) -> str:
        return f"{self.sampler} steps on flow-matching sigmas, velocity prediction"

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
            self.schedules.keep(self, key, "timesteps", "sigmas", "num_inference_steps", "levels")
        self._step_index = self._begin_index = None
        if self.hook is not None:
            self.timesteps = self.timesteps[self.hook.steps]

    def transition(self, model_output: Tensor, steps: Sequence[int], sample: Tensor, noise: float) -> Transition:
        """p(x_next | x), each row at the step of this schedule whose number `steps` gives."""
        at = torch.tensor(steps)
        sigma, following = self.levels[at], self.levels[at + 1]
        return flow.transition(model_output, sample, sigma, following, noise, self.sampler, self.levels[1])

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
