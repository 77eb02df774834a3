"""Stock schedulers whose `step` is replaced by a hook.

A recording scheduler is a copy of the pipeline's own scheduler. Its class is a subclass of the scheduler's class, so
the pipeline finds every attribute that it looks for. `set_timesteps` and the noise levels are those of the stock
scheduler, see `noise_levels`. Only the step from one level to the next is replaced, by one that has a density.

The hook counts the steps, because looking them up by timestep would synchronize with the device at every step. Noise
levels are passed per row even if all rows are at one step: a replay may hold rows of several steps, and an accelerator
may divide by a scalar and by a tensor with different rounding.
"""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, get_args

import torch
from diffusers import (
    CogVideoXDDIMScheduler,
    CogVideoXDPMScheduler,
    DDIMParallelScheduler,
    DDIMScheduler,
    TCDScheduler,
)
from diffusers.utils import BaseOutput
from torch import Tensor

from stepcredit.config import SampleSection
from stepcredit.errors import InputError
from stepcredit.maths import Schedule, Transition, ddim, schedules
from stepcredit.policy.replay.noise_levels import NoiseLevels
from stepcredit.policy.replay.step_hooks import StepHook
from stepcredit.policy.replay.step_kinds import DiffusionSteps, FlowSteps, StepKind
from stepcredit.policy.samplers import build_sampler

FLOW_PREDICTION = "flow_prediction"

_FLOWS = ("FlowMatch", "AncestralRF")
"""Parts of the names of schedulers that are made for flows."""


class RecordingScheduler:
    """What a recording scheduler adds to the stock scheduler, and what it replaces.

    Latents have the scale of DDIM and flow schedulers, at which the denoiser takes them unscaled. Solvers with another
    scale, such as Euler's, are converted to it: `scale_model_input` does nothing, and `init_noise_sigma` is near 1.

    Attributes:
        hook: takes the steps.
        kind: how a step goes from one level to the next.
        current: the levels that `set_timesteps` has set last.
        step_sizes: T numbers, see `Schedule`.
    """

    config: Any
    timesteps: Tensor
    hook: StepHook | None
    kind: StepKind
    current: NoiseLevels
    step_sizes: list[float]
    _by_arguments: dict[Any, dict[str, Any]]

    @property
    def description(self) -> str:
        return self.kind.description

    @property
    def leaves_out_last_step(self) -> bool:
        return self.kind.leaves_out_last_step

    @property
    def init_noise_sigma(self) -> float:
        """The standard deviation of the first latents, as the stock scheduler has it at its own scale."""
        inherited = getattr(super(), "init_noise_sigma", 1.0)  # a property of some classes, an attribute of others
        own = float(self.__dict__.get("init_noise_sigma", inherited))
        return own if own == 1 else own * float(self.current.values[0].sqrt())

    @init_noise_sigma.setter
    def init_noise_sigma(self, value: Any) -> None:
        """Stock schedulers set it."""

    def scale_model_input(self, sample: Tensor, *_: Any, **__: Any) -> Tensor:
        return sample

    def noise_scale(self, sample: SampleSection) -> float:
        return self.kind.noise_scale(sample)

    def usually_noisy(self, steps: int) -> range:
        return self.kind.usually_noisy(steps)

    def transition(self, model_output: Tensor, steps: Sequence[int], sample: Tensor, noise: float) -> Transition:
        """p(x_next | x), where row n is at step `steps[n]`."""
        return self.kind.transition(model_output, sample, self.current.values, torch.tensor(steps), noise)

    def schedule(self, noises: Sequence[float]) -> Schedule:
        """The schedule of the levels set last, with these noise scales; float32, on the CPU."""
        one = torch.ones(1, 1, dtype=torch.float64)
        kind, values = self.kind.linear, self.current.values
        units = [kind.transition(one, 0 * one, values, torch.tensor([at]), noise) for at, noise in enumerate(noises)]
        return schedules.of_units(units, self.step_sizes, *kind.alphas_and_sigmas(values))

    def _set_timesteps(self, own: Any, *args: Any, **kwargs: Any) -> None:
        key = _hashable((args, tuple(kwargs.items())))
        if key not in self._by_arguments:
            own(*args, **kwargs)
            self.current = self.kind.levels(self)
            self.timesteps = self.current.timesteps
            self.step_sizes = self.kind.step_sizes(self.current, int(self.config.num_train_timesteps))
            self._by_arguments[key] = {name: self.__dict__[name] for name in self.__dict__.keys() - _KEPT}
        self.__dict__.update(self._by_arguments[key])
        if self.hook is not None:
            self.timesteps = self.timesteps[self.hook.steps]

    def _step(self, model_output: Tensor, timestep: Any, sample: Tensor, return_dict: bool) -> Any:
        if self.hook is None:
            raise RuntimeError("a recording scheduler takes steps only while a pipeline is recorded or replayed")
        next_sample, x0 = self.hook.step(self, model_output, timestep, sample)
        return StepOutput(next_sample, x0) if return_dict else (next_sample, x0)


_KEPT = {"hook", "kind", "_by_arguments", "_internal_dict"}
"""Attributes that `set_timesteps` does not set; the last one is the configuration."""


@dataclass
class StepOutput(BaseOutput):  # type: ignore[misc]  # diffusers has no types
    """What a recording scheduler's `step` returns."""

    prev_sample: Tensor
    pred_original_sample: Tensor


_STEP_ARGUMENTS = ["model_output", "timestep", "sample"]
"""Arguments of `step` that every scheduler has. They come first, in this order, if they have other names."""


def recording_scheduler(stock: Any, sample: SampleSection) -> RecordingScheduler:
    """A recording copy of a pipeline's scheduler.

    Schedulers for flows, and solvers with flow sigmas, take steps of `sample.sampler`. All others take DDIM steps.

    Raises:
        InputError: neither supports the schedule or the prediction type.
    """
    kind: StepKind
    if is_flow(stock):
        _require_velocity(stock)
        kind = FlowSteps(build_sampler(sample), sample.sampler)
    else:
        kind = _diffusion_steps(stock)
    recording = copy.copy(stock)
    recording.__class__ = _recording_class(type(stock))  # type: ignore[arg-type]  # classes are hashable
    recording.hook, recording.kind, recording._by_arguments = None, kind, {}
    found: RecordingScheduler = recording
    return found


def is_flow(stock: Any) -> bool:
    """Whether a scheduler belongs to a flow-matching model."""
    names = [kind.__name__ for kind in type(stock).__mro__]
    return any(part in name for name in names for part in _FLOWS) or bool(stock.config.get("use_flow_sigmas"))


def _require_velocity(stock: Any) -> None:
    """InputError unless a scheduler for flows takes the model output for the velocity of a flow towards noise."""
    kind, config = type(stock).__name__, stock.config
    for option in ("invert_sigmas", "thresholding"):
        if config.get(option):
            raise InputError(f"{kind} has {option} set, which cannot be sampled with noise: unset it")
    prediction = config.get("prediction_type", FLOW_PREDICTION)
    if prediction != FLOW_PREDICTION:
        raise InputError(
            f"{kind} has use_flow_sigmas set and prediction_type '{prediction}', expected '{FLOW_PREDICTION}': change "
            "the one that does not fit the model"
        )


def _diffusion_steps(stock: Any) -> DiffusionSteps:
    kind = type(stock).__name__
    if not isinstance(getattr(stock, "alphas_cumprod", None), Tensor):
        raise InputError(
            f"the noise schedule of {kind} fits neither DDIM nor flow-matching steps: give the pipeline another "
            "scheduler"
        )
    prediction = stock.config.get("prediction_type", "epsilon")
    if prediction not in get_args(ddim.PredictionType):
        known = ", ".join(get_args(ddim.PredictionType))
        remedy = "; set use_flow_sigmas too" if prediction == FLOW_PREDICTION else ""
        raise InputError(f"the prediction type of {kind} is '{prediction}', expected one of: {known}{remedy}")
    return DiffusionSteps(prediction, _clip(stock), keep_noise=isinstance(stock, _KEEP_NOISE))


_KEEP_NOISE = (DDIMScheduler, DDIMParallelScheduler)
"""They clip the predicted clean latents only. The others derive the noise from what was clipped."""

_NEVER_CLIP = (CogVideoXDDIMScheduler, CogVideoXDPMScheduler, TCDScheduler)
"""Their steps do not read their options `clip_sample` and `thresholding`."""


def _clip(stock: Any) -> ddim.Clip | None:
    """What a scheduler does to predicted clean latents."""
    if isinstance(stock, _NEVER_CLIP):
        return None
    if stock.config.get("thresholding"):
        threshold: ddim.Clip = stock._threshold_sample
        return threshold
    if not stock.config.get("clip_sample"):
        return None
    limit = stock.config.get("clip_sample_range", 1.0)
    return lambda x0: x0.clamp(-limit, limit)


@cache
def _recording_class(kind: Any) -> Any:
    """A subclass of `kind` whose methods keep their signatures, which pipelines inspect."""

    @functools.wraps(kind.set_timesteps)
    def set_timesteps(self: Any, *args: Any, **kwargs: Any) -> None:
        self._set_timesteps(functools.partial(kind.set_timesteps, self), *args, **kwargs)

    signature = _step_signature(kind)
    known = signature.parameters.keys() >= set(_STEP_ARGUMENTS)
    names = _STEP_ARGUMENTS if known else list(signature.parameters)[1 : len(_STEP_ARGUMENTS) + 1]

    @functools.wraps(kind.step)
    def step(self: Any, *args: Any, **kwargs: Any) -> Any:
        given = signature.bind(self, *args, **kwargs).arguments
        return self._step(*(given[name] for name in names), given.get("return_dict", True))

    members = {"set_timesteps": set_timesteps, "step": step, "__module__": kind.__module__}
    return type(kind.__name__, (RecordingScheduler, kind), members)


def _step_signature(kind: Any) -> inspect.Signature:
    """That of `step(self, model_output, timestep, sample, ...)`: of the class, or of a base class if it has `*args`."""
    signatures = [inspect.signature(vars(each)["step"]) for each in kind.__mro__ if "step" in vars(each)]
    for signature in signatures:
        parameters = list(signature.parameters.values())
        first = parameters[: len(_STEP_ARGUMENTS) + 1]
        if len(first) > len(_STEP_ARGUMENTS) and all(each.kind is each.POSITIONAL_OR_KEYWORD for each in first):
            return signature
    raise InputError(f"{kind.__name__}.step does not take (model_output, timestep, sample): use another scheduler")


def _hashable(value: Any) -> Any:
    if hasattr(value, "tolist"):  # a tensor or an array
        return tuple(value.tolist())
    if isinstance(value, list | tuple):
        return tuple(map(_hashable, value))
    return value if value.__hash__ is not None else repr(value)
