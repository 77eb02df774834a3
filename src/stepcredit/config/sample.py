"""The section `sample`."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from stepcredit.config.section import Section


class SampleSection(Section):
    """How images are sampled."""

    steps: int = Field(20, ge=1, le=10_000, description="Number of denoising steps T.")
    guidance: float = Field(1.0, ge=0, description="Classifier-free guidance scale, in sampling and in training.")
    eta: float = Field(
        1.0,
        ge=0,
        le=1,
        description="Eta of DDIM. 0 is deterministic, for algorithms that need no log-probabilities.",
    )
    sampler: str = Field(
        "flow-sde",
        description="Sampler of flow models, or `module:name` or `path/file.py:name` of your own. "
        "`stepcredit list sampler` lists the samplers.",
    )
    stochastic: bool | None = Field(
        None,
        description="Whether training rollouts draw noise. `null` means only if the algorithm needs log-probabilities.",
    )
    noise_level: float = Field(
        0.7, gt=0, description="Amount of noise in the steps of flow models. Each sampler defines its scale."
    )
    sde_window_size: int | None = Field(
        None, ge=1, description="Number of steps that draw noise and are trained. `null` selects all steps."
    )
    sde_window_start: int = Field(
        0, ge=0, description="First step that draws noise. Steps outside the window are deterministic."
    )
    sde_window_every: int | None = Field(
        None,
        ge=1,
        description="Number of epochs after which the window moves by one step. `null` keeps it in place.",
    )
    train_last_step: bool = Field(
        False,
        description="Whether to train the last step of flow models too. Its noise is the smallest, so up to half of "
        "the squared gradient comes from it. DDIM models are not affected.",
    )
    min_std: float = Field(
        1e-3, ge=0, description="Steps with a smaller standard deviation are sampled but not trained."
    )
    prompts_per_epoch: int | None = Field(8, ge=1, description="Number of prompts per epoch. `null` means all prompts.")
    images_per_prompt: int = Field(
        8, ge=1, description="Number of images per prompt. With `train.advantage=group`, they form a group."
    )
    batch: int | None = Field(
        None,
        ge=1,
        description="Number of images to sample at a time. `null` means the size of the micro-batch.",
    )
    evaluation_steps: int | None = Field(
        None,
        ge=1,
        le=10_000,
        description="Number of denoising steps of sample grids, `sample` and `evaluate`. `null` means `sample.steps`.",
    )
    evaluation_noise: bool | None = Field(
        None,
        description="Whether the steps of sample grids, `sample` and `evaluate` draw noise. `null` means yes for DDIM "
        "and no for flow models.",
    )
    call: dict[str, Any] = Field({}, description="Further arguments of the pipeline's `__call__`, such as `height`.")
