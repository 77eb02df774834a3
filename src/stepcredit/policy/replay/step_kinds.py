"""How a step goes from one noise level to the next: DDIM for diffusion models, a flow sampler for flows."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol

from torch import Tensor

from stepcredit.config import SampleSection
from stepcredit.errors import InputError
from stepcredit.maths import Transition, ddim
from stepcredit.maths.flow import flow_step
from stepcredit.policy.replay.noise_levels import NoiseLevels, diffusion_levels, flow_levels
from stepcredit.policy.samplers import FlowSampler


class StepKind(Protocol):
    """How a step goes from one noise level to the next."""

    @property
    def description(self) -> str: ...

    @property
    def linear(self) -> StepKind:
        """The same without clipping: the mean of its steps is linear in the model output."""
        ...

    @property
    def leaves_out_last_step(self) -> bool:
        """Whether the last step is trained only if `sample.train_last_step` says so."""
        ...

    def noise_scale(self, sample: SampleSection) -> float:
        """The noise scale of `transition` that the user has set."""
        ...

    def usually_noisy(self, steps: int) -> range:
        """The steps that draw noise when nothing is trained."""
        ...

    def levels(self, scheduler: Any) -> NoiseLevels:
        """The levels of a scheduler after `set_timesteps`."""
        ...

    def transition(
        self, model_output: Tensor, sample: Tensor, values: Tensor, steps: Tensor, noise: float
    ) -> Transition:
        """p(x_next | x) of rows at `steps`, given all T + 1 levels; see `NoiseLevels.values`."""
        ...

    def alphas_and_sigmas(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """(alphas, sigmas), see `Schedule`."""
        ...

    def step_sizes(self, levels: NoiseLevels, train_timesteps: int) -> list[float]:
        """See `Schedule`."""
        ...


@dataclass(frozen=True)
class DiffusionSteps:
    """DDIM steps on the levels of a diffusion scheduler. The noise scale is DDIM's eta.

    Attributes:
        prediction: what the model predicts.
        clip: what the stock scheduler does to the predicted clean latents; None for nothing.
        keep_noise: whether it leaves the predicted noise as it is then.
    """

    prediction: ddim.PredictionType
    clip: ddim.Clip | None = None
    keep_noise: bool = True
    leaves_out_last_step: ClassVar[bool] = False

    @property
    def description(self) -> str:
        return f"DDIM steps, {self.prediction} prediction" + ("" if self.clip is None else ", clipped")

    @property
    def linear(self) -> DiffusionSteps:
        return replace(self, clip=None)

    def noise_scale(self, sample: SampleSection) -> float:
        return sample.eta

    def usually_noisy(self, steps: int) -> range:
        return range(steps)

    def levels(self, scheduler: Any) -> NoiseLevels:
        found = diffusion_levels(scheduler)
        if self.prediction == "epsilon" and found.values[0] == 0:
            raise InputError(
                f"{type(scheduler).__name__} begins with pure noise (rescale_betas_zero_snr), of which a model that "
                "predicts noise tells nothing: set the prediction_type or the timestep_spacing that the model was "
                "trained with"
            )
        return found

    def transition(
        self, model_output: Tensor, sample: Tensor, values: Tensor, steps: Tensor, noise: float
    ) -> Transition:
        now, after = values[steps], values[steps + 1]
        return ddim.transition(
            model_output, sample, now, after, noise, self.prediction, self.clip, keep_noise=self.keep_noise
        )

    def alphas_and_sigmas(self, values: Tensor) -> tuple[Tensor, Tensor]:
        return values.sqrt(), (1 - values).sqrt()

    def step_sizes(self, levels: NoiseLevels, train_timesteps: int) -> list[float]:
        """Differences of the timesteps divided by their number. The last step is as long as the one before it."""
        if len(levels.timesteps) == 1:
            return [1.0]
        lengths = (levels.timesteps[:-1] - levels.timesteps[1:]).tolist()
        return [length / train_timesteps for length in [*lengths, lengths[-1]]]


@dataclass(frozen=True)
class FlowSteps:
    """Steps of a flow sampler on the levels of a flow-matching scheduler. With noise 0 they are Euler steps.

    Attributes:
        sampler: makes the stochastic step, see `policy.samplers`.
        name: of the sampler.
    """

    sampler: FlowSampler
    name: str
    leaves_out_last_step: ClassVar[bool] = True

    @property
    def description(self) -> str:
        return f"{self.name} steps on flow-matching sigmas, velocity prediction"

    @property
    def linear(self) -> FlowSteps:
        return self

    def noise_scale(self, sample: SampleSection) -> float:
        return sample.noise_level

    def usually_noisy(self, steps: int) -> range:
        return range(0)

    def levels(self, scheduler: Any) -> NoiseLevels:
        return flow_levels(scheduler)

    def transition(
        self, model_output: Tensor, sample: Tensor, values: Tensor, steps: Tensor, noise: float
    ) -> Transition:
        step = flow_step(model_output, sample, values[steps], values[steps + 1], values[1])
        return step.euler() if noise == 0 else self.sampler(step, noise)

    def alphas_and_sigmas(self, values: Tensor) -> tuple[Tensor, Tensor]:
        return 1 - values, values

    def step_sizes(self, levels: NoiseLevels, train_timesteps: int) -> list[float]:
        """Differences of the noise levels."""
        sizes: list[float] = (levels.values[:-1] - levels.values[1:]).tolist()
        return sizes
