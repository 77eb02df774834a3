"""The section `train`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from stepcredit.config.section import Section

Momentum = Annotated[float, Field(ge=0, lt=1)]


class TrainSection(Section):
    """How the weights are updated.

    The images of an epoch are shuffled and split into `updates_per_epoch` groups. Each group gives one optimizer step,
    on all denoising steps of its images or on `sampled_steps` of them. The gradient is accumulated over training
    forwards of `microbatch` (image, step) pairs.
    """

    algorithm: str = Field(
        "ppo",
        description="Name of the algorithm, or `module:name` or `path/file.py:name` of your own. "
        "`stepcredit list algorithm` lists the algorithms.",
    )
    options: dict[str, Any] = Field({}, description="Further options of the algorithm, such as `beta` of `matching`.")
    epochs: int = Field(
        10, ge=0, description="Number of epochs. An epoch samples images, scores them and updates the weights."
    )
    learning_rate: float = Field(1.2e-2, gt=0, description="Learning rate of AdamW. It is constant.")
    weight_decay: float = Field(1e-4, ge=0, description="Weight decay of AdamW.")
    betas: tuple[Momentum, Momentum] = Field((0.9, 0.999), description="Betas of AdamW, each in [0, 1).")
    adam_epsilon: float = Field(1e-8, gt=0, description="Epsilon of AdamW.")
    max_grad_norm: float = Field(1.0, gt=0, description="Gradients are clipped to this norm.")
    updates_per_epoch: int = Field(
        4, ge=1, description="Number of optimizer steps per pass over the images of an epoch."
    )
    inner_epochs: int = Field(1, ge=1, description="Number of passes over the images of an epoch.")
    microbatch: Annotated[int, Field(ge=1)] | Literal["auto"] | None = Field(
        None,
        description="Number of (image, step) pairs per training forward, at most the number of images of an epoch. If "
        "it exceeds the number of images of an update, a forward holds several steps of an image. `null` means the "
        "number of images of an update. `auto` measures the largest number that fits into memory.",
    )
    timestep_fraction: float = Field(
        1.0,
        gt=0,
        le=1,
        description="Train only this fraction of the steps, the noisiest ones. The number is rounded down.",
    )
    sampled_steps: int | None = Field(
        None,
        ge=1,
        description="Number of steps per image to train on. They are drawn anew every epoch and weighted so "
        "that the expected gradient stays the same. `null` trains on all steps.",
    )
    step_sampling: Literal["credit", "uniform"] = Field(
        "credit",
        description="How `sampled_steps` are drawn: `credit` in proportion to |step advantage| x native scale, "
        "`uniform` with equal probability.",
    )
    clip_range: float = Field(
        1e-2,
        gt=0,
        description="The probability ratio is clipped to [1 - clip_range, 1 + clip_range]. Ratios are per latent "
        "element.",
    )
    kl_weight: float = Field(
        0.0,
        ge=0,
        description="Weight of the KL penalty, the distance from the untrained model per latent element. `kl_space` "
        "selects the distance.",
    )
    kl_space: Literal["log_prob", "flow_grpo", "prediction"] = Field(
        "log_prob",
        description="Distance of the KL penalty. `log_prob` is the KL divergence of the steps. `flow_grpo` is "
        "that of Flow-GRPO's code, so its values of beta need no conversion: for `flow-sde` and `dance-sde` the KL "
        "divergence times the length of the step, otherwise `log_prob`. "
        "`prediction` is the mean squared distance of the model outputs, which does not grow for steps with little "
        "noise.",
    )
    advantage: Literal["group", "running", "batch"] = Field(
        "group",
        description="How rewards are standardized: `group` per prompt in the epoch, `running` per prompt over a "
        "buffer of earlier epochs, `batch` over the epoch.",
    )
    advantage_std: Literal["group", "batch"] = Field(
        "group",
        description="Standard deviation that `train.advantage=group` divides by: of the prompt's images, or of all "
        "images of the epoch (`global_std` of Flow-GRPO).",
    )
    advantage_epsilon: float = Field(
        1e-6, ge=0, description="Added to the standard deviation by `train.advantage=group`. Flow-GRPO uses 1e-4."
    )
    advantage_unbiased: bool = Field(
        False,
        description="Whether the standard deviation of `train.advantage=group` divides by n - 1, as torch.std does, "
        "instead of n.",
    )
    skip_constant_groups: bool = Field(
        False,
        description="Leave out prompts whose images all have advantage 0 in an epoch. The loss of an update is then "
        "the mean over its other images, and an update without other images is not made. Flow-GRPO leaves out images "
        "with advantage 0.",
    )
    advantage_clip: float = Field(
        5.0, gt=0, description="Advantages and step advantages are clipped to [-advantage_clip, advantage_clip]."
    )
    buffer_size: int = Field(
        32,
        ge=1,
        description="Number of most recent images per prompt in the buffers of `train.advantage=running` and "
        "`credit.standardize`.",
    )
    min_count: int = Field(
        16,
        ge=1,
        description="Number of images that the buffer of a prompt needs before it is used. Until then, the "
        "statistics of the whole batch are used.",
    )
    max_skipped_updates: int = Field(
        5,
        ge=0,
        description="Number of consecutive updates that may be skipped because their loss or gradient is not "
        "finite. One more ends the run.",
    )
