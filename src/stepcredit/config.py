"""The complete configuration of a run. Its defaults are the recipe `embedded_jpeg`.

For other models than the bundled ones, some keys have defaults of the model's family, see `runs.model_defaults`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, model_validator

from stepcredit.bundled import BUNDLED
from stepcredit.utils.python_objects import is_python_object

Momentum = Annotated[float, Field(ge=0, lt=1)]
_STANDARDIZE = AliasChoices("standardize", "standardise")  # version 0.1 wrote the second
MIXTURE = "mixture"
"""`reward.name` of a reward that is a weighted sum of others."""

PromptOrder = Literal["shuffled", "fixed", "random"]
_DEFAULT_PROMPTS = "shapes"
BUNDLED_MODELS = tuple(BUNDLED)
"""Values of `model.path` that name a model of the package. The defaults of the configuration are theirs."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ModelSection(_Section):
    """The model to train."""

    path: str = Field(
        "embedded",
        description="Hub id, folder of a diffusers pipeline, or a bundled model: `embedded` or `embedded-flow`.",
    )
    dtype: Literal["float32", "bfloat16", "float16"] = Field(
        "float32",
        description="Data type of the frozen weights, or of the autocast with `adapter=full`. Trained weights, "
        "log-probabilities and credit are always float32.",
    )
    variant: str | None = Field(
        None, description="Variant of the weight files, such as `fp16`. `null` loads the files without a variant."
    )
    device: str = Field(
        "auto",
        description="`auto`, `cpu`, `cuda`, `cuda:1`, `xpu`, `mps` and so on. `auto` uses CUDA if it is available, "
        "else the CPU.",
    )
    adapter: Literal["lora", "full"] = Field(
        "lora", description="What is trained: a LoRA, or every weight of the denoiser."
    )
    lora_rank: int = Field(4, ge=1, description="Rank of the LoRA.")
    lora_alpha: float | None = Field(
        None, gt=0, description="Alpha of the LoRA, which is scaled by alpha / rank. `null` means alpha = rank."
    )
    lora_targets: list[str] | None = Field(
        None,
        min_length=1,
        description="Layers that get a LoRA, by the end of their name. `null` selects the attention layers of "
        "the model's family.",
    )
    ema: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="Decay of an exponential moving average of the trained weights. Sample grids, `sample`, `evaluate` "
        "and exports use the average. `null` keeps none.",
    )
    shard: bool = Field(
        False, description="Shard the denoiser's weights over the processes with FSDP2. Needs two or more processes."
    )
    gradient_checkpointing: bool = Field(
        False, description="Recompute activations in the backward pass. Needs less memory and more time."
    )
    compile: bool = Field(False, description="Compile the denoiser with torch.compile.")
    vae_tiling: bool = Field(False, description="Decode large images tile by tile. Needs less memory.")


class SampleSection(_Section):
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


class TrainSection(_Section):
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


class CreditSection(_Section):
    """How the advantage of an image is distributed over its denoising steps."""

    name: str = Field(
        "contribution",
        description="Name of the credit rule, or `module:name` or `path/file.py:name` of your own. `stepcredit "
        "list credit` lists the rules.",
    )
    window: int = Field(
        5,
        ge=1,
        description="Number of steps per window of the contribution rules. With `sample.steps` or more, they equal "
        "`linear`.",
    )
    alpha: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Share of the advantage that every step gets regardless of its credit. 1 turns step credit off.",
    )
    clamp: bool = Field(False, description="Set negative contributions to zero.")
    standardize: bool = Field(
        True,
        validation_alias=_STANDARDIZE,
        description="Standardize step advantages, pooled over the images and steps of a prompt.",
    )
    options: dict[str, Any] = Field({}, description="Further options of the rule, such as `gamma` of `discount`.")


class ComponentSection(_Section):
    """One reward of a mixture. Its scores r enter the sum as weight * (r - mean) / scale.

    With `standardize: prompt`, mean and scale are the mean and standard deviation of the scores of the prompt's images
    in the epoch. With `fixed` they are the ones given here. With `none` they are 0 and 1.
    """

    name: str = Field(description="Name of the reward, as in `reward.name`.")
    options: dict[str, Any] = Field({}, description="Options of the reward: arguments of its function or class.")
    remote: str | list[str] | None = Field(
        None, description="Address of a reward server for this component, as in `reward.remote`."
    )
    label: str = Field(
        "",
        description="Name of the component in metrics and reports. Empty uses the name of the reward, or the "
        "function of `module:function`.",
    )
    weight: float = Field(
        1.0,
        ge=-1e9,
        le=1e9,
        description="Weight in the sum. A negative weight trains against the reward. 0 only records its scores.",
    )
    standardize: Literal["prompt", "fixed", "none"] = Field(
        "prompt",
        validation_alias=_STANDARDIZE,
        description="How scores are standardized: `prompt` over the images of the prompt, `fixed` with `mean` "
        "and `scale`, `none` not at all.",
    )
    mean: float = Field(0.0, description="Subtracted from the scores with `standardize: fixed`.")
    scale: float = Field(1.0, gt=0, description="Divides the scores with `standardize: fixed`.")

    @property
    def called(self) -> str:
        """Its name in metrics, reports and errors."""
        return self.label or self.name.rpartition(":")[2]

    @model_validator(mode="after")
    def _fixed_only(self) -> ComponentSection:
        if self.standardize != "fixed" and (self.mean, self.scale) != (0.0, 1.0):
            raise ValueError(f"mean and scale need standardize: fixed, but standardize is {self.standardize}")
        return self


class RewardSection(_Section):
    """The reward to maximize."""

    name: str = Field(
        "jpeg_compressibility",
        description="Name of the reward, or `module:function` or `path/file.py:function` of your own. "
        "`stepcredit list reward` lists the rewards.",
    )
    options: dict[str, Any] = Field({}, description="Options of the reward: arguments of its function or class.")
    components: list[ComponentSection] = Field(
        [],
        description="Rewards of a mixture, in place of `name`. Each has the keys name, options, remote, label, weight, "
        "standardize, mean and scale. See the guide on rewards.",
    )
    remote: str | list[str] | None = Field(
        None,
        description="Address of one or more reward servers that compute the scores. `name` is then a reward on the "
        "server, and `options` configure the client. See the guide on remote rewards.",
    )
    overlap: bool = Field(
        True,
        description="Score finished images while others are sampled. `false` scores all images of an epoch in "
        "one call.",
    )
    timeout: float | None = Field(
        1800.0,
        gt=0,
        description="Seconds that scoring one batch may take. After that, the run saves a checkpoint and "
        "exits. `null` means no limit.",
    )
    ray_workers: int | None = Field(
        None, ge=1, description="Number of Ray actors. Each holds the reward and scores a share of every batch."
    )
    ray_gpus: float = Field(
        0.0, ge=0, description="GPUs that each of the `ray_workers` reserves. Fractions are allowed."
    )

    @model_validator(mode="after")
    def _one_place(self) -> RewardSection:
        if self.remote is not None and (self.ray_workers is not None or self.components):
            other = "ray_workers" if self.ray_workers is not None else "components"
            raise ValueError(f"reward.remote and reward.{other} exclude each other: leave one of them out")
        if self.ray_gpus and self.ray_workers is None:
            raise ValueError("reward.ray_gpus needs reward.ray_workers: set the number of workers too")
        return self

    @model_validator(mode="before")
    @classmethod
    def _name_the_mixture(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("components") and "name" not in data:
            return {**data, "name": MIXTURE}
        return data

    @model_validator(mode="after")
    def _mixture_or_one(self) -> RewardSection:
        if not self.components:
            return self
        if self.name != MIXTURE or self.options:
            raise ValueError(
                f"reward.components make a mixture, but reward.name is '{self.name}' with options {self.options}: "
                "leave name and options to the components, or empty components"
            )
        labels = [component.called for component in self.components]
        twice = next((label for label in labels if labels.count(label) > 1), None)
        if twice is not None:
            raise ValueError(f"reward.components has two components named '{twice}': give each its own label")
        if not any(component.weight for component in self.components):
            raise ValueError("every component of reward.components has weight 0: give at least one another weight")
        return self


def default_order(source: str) -> PromptOrder:
    """`prompts.order` of a prompt source for which none is set."""
    return "fixed" if source == _DEFAULT_PROMPTS else "shuffled"


class PromptsSection(_Section):
    """The prompts to train on."""

    source: str = Field(
        _DEFAULT_PROMPTS,
        description="Name of a prompt list, path of a .txt or .jsonl file, or `module:function` or "
        "`path/file.py:function` of your own. `stepcredit list prompt` lists the names.",
    )
    order: PromptOrder = Field(
        default_factory=lambda values: default_order(values.get("source", "")),
        json_schema_extra={"default": "shuffled"},
        description="Which `sample.prompts_per_epoch` prompts an epoch trains on. `shuffled` goes through the whole "
        "list in random order, epoch after epoch, before it uses a prompt again. `fixed` uses the first ones in every "
        "epoch. `random` draws with replacement. The default is `fixed` for the list `shapes`, whose first 8 prompts "
        "cover every shape and color.",
    )


class RunSection(_Section):
    """Seed, processes, grids, checkpoints and plugins."""

    seed: int = Field(0, ge=0, lt=2**63, description="Seed of all random numbers of the run.")
    processes: int | None = Field(None, ge=1, description="Required number of processes. `null` accepts any number.")
    connect_timeout: float | None = Field(
        300.0,
        gt=0,
        description="Seconds to wait for the other processes of the launcher to connect. `null` means no limit.",
    )
    grid_every: int = Field(5, ge=1, description="Number of epochs between sample grids.")
    grid_images: int = Field(16, ge=1, description="Number of images on a sample grid.")
    checkpoint_every: int = Field(1, ge=1, description="Number of epochs between checkpoints.")
    keep_checkpoints: int = Field(2, ge=1, description="Number of most recent checkpoints to keep.")
    keep_best: int = Field(
        1,
        ge=0,
        description="Number of best checkpoints to keep in addition to the most recent ones. The best are those "
        "whose images scored highest.",
    )
    plugins: list[str] = Field(
        [],
        description="Files (`path/file.py`) or modules of your own to import. They register rewards, credit "
        "rules and so on.",
    )
    self_check: bool = Field(
        True,
        description="Replay the first batch before training, and refuse a model whose replay differs from its rollout.",
    )
    profile: bool = Field(
        False, description="Profile the second epoch with the torch profiler. Writes a trace and a table to `profile/`."
    )
    trackers: list[str] = Field(
        ["tensorboard"],
        description="Trackers that log metrics and sample grids: names, `module:Class` or `path/file.py:Class`. "
        "`stepcredit list tracker` lists the names.",
    )


class TrainConfig(_Section):
    """The complete configuration of a run, as config.yaml holds it."""

    model: ModelSection = ModelSection()
    sample: SampleSection = SampleSection()
    train: TrainSection = TrainSection()
    credit: CreditSection = CreditSection()
    reward: RewardSection = RewardSection()
    prompts: PromptsSection = PromptsSection()
    run: RunSection = RunSection()

    @model_validator(mode="after")
    def _consistent(self) -> TrainConfig:
        images = self.images_per_epoch
        if images is not None and self.train.updates_per_epoch > images:
            raise ValueError(
                f"train.updates_per_epoch is {self.train.updates_per_epoch} but an epoch has only {images} images"
            )
        return self

    @property
    def images_per_epoch(self) -> int | None:
        """Number of images of an epoch; None if it depends on the number of prompts."""
        if self.sample.prompts_per_epoch is None:
            return None
        return self.sample.prompts_per_epoch * self.sample.images_per_prompt

    @property
    def python_objects(self) -> dict[str, str]:
        """The keys whose value only a Python program can supply, see `utils.python_objects`."""
        names = {
            "model.path": self.model.path,
            "reward.name": self.reward.name,
            "credit.name": self.credit.name,
            "prompts.source": self.prompts.source,
        }
        return {key: name for key, name in names.items() if is_python_object(name)}
