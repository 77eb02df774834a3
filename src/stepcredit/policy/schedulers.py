"""Stock schedulers whose `step` hands the stochastic transition to a tape.

Pipelines look at the signatures of `set_timesteps` and `step`, so both keep their parents' parameters exactly.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import DDIMScheduler
from diffusers.schedulers.scheduling_ddim import DDIMSchedulerOutput
from torch import Tensor

from stepcredit.maths import Transition, ddim
from stepcredit.policy.tape import Tape


class RecordingDDIMScheduler(DDIMScheduler):  # type: ignore[misc]  # diffusers has no types
    """DDIMScheduler that, while `tape` is set, samples through it; without a tape it is the stock scheduler.

    The tape's `eta` replaces the pipeline's. Latents are never clipped: `clip_sample` and `thresholding` are for
    pixels.
    """

    tape: Tape | None = None
    timesteps: Tensor

    @classmethod
    def replacing(cls, scheduler: Any) -> RecordingDDIMScheduler:
        """This scheduler with the noise schedule and prediction type of `scheduler`."""
        replacement: RecordingDDIMScheduler = cls.from_config(scheduler.config, clip_sample=False, thresholding=False)
        return replacement

    def set_timesteps(self, num_inference_steps: int, device: str | torch.device | None = None) -> None:
        super().set_timesteps(num_inference_steps, device)
        if self.tape is not None and self.tape.only_step is not None:
            self.timesteps = self.timesteps[self.tape.only_step : self.tape.only_step + 1]

    def transition(self, model_output: Tensor, timestep: Tensor | int, sample: Tensor, eta: float) -> Transition:
        """p(x_next | x) of this schedule at `timestep`."""
        previous = int(timestep) - self.config.num_train_timesteps // self.num_inference_steps
        return ddim.transition(
            model_output,
            sample,
            self.alphas_cumprod[int(timestep)],
            self.alphas_cumprod[previous] if previous >= 0 else self.final_alpha_cumprod,
            eta,
            self.config.prediction_type,
        )

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
    ) -> DDIMSchedulerOutput | tuple[Tensor, Tensor]:
        if self.tape is None:
            return super().step(
                model_output, timestep, sample, eta, use_clipped_model_output, generator, variance_noise, return_dict
            )
        transition = self.transition(model_output, timestep, sample, self.tape.eta)
        following = self.tape.take(transition, sample, timestep)
        if not return_dict:
            return following, transition.x0
        return DDIMSchedulerOutput(prev_sample=following, pred_original_sample=transition.x0)
