"""The whole configuration of a run. Its defaults are the embedded JPEG recipe: `stepcredit train` needs no file."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, model_validator

from stepcredit.utils.python_objects import is_python_object

Momentum = Annotated[float, Field(ge=0, lt=1)]
_STANDARDIZE = AliasChoices("standardize", "standardise")  # version 0.1 wrote the second
MIXTURE = "mixture"
"""The name of a reward that is made of others."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ModelSection(_Section):
    """What is trained."""

    path: str = Field("embedded", description="hub id, folder, or `embedded`")
    dtype: Literal["float32", "bfloat16", "float16"] = Field(
        "float32", description="of the frozen weights; a LoRA, log-probabilities and credit are always float32"
    )
    variant: str | None = Field(None, description="of the weight files, such as fp16; None is the plain ones")
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, ...")
    adapter: Literal["lora", "full"] = Field("lora", description="train a LoRA, or every weight of the denoiser")
    lora_rank: int = Field(4, ge=1, description="rank of the LoRA")
    lora_alpha: float | None = Field(None, gt=0, description="None is the rank, which every LoRA reader agrees on")
    lora_targets: list[str] | None = Field(
        None, min_length=1, description="layers, by the end of their name; None is the attention of the model's family"
    )
    ema: float | None = Field(
        None, ge=0, lt=1, description="decay of an average of the trained weights, used for grids and export"
    )
    shard: bool = Field(
        False, description="share the denoiser's weights out over the processes (FSDP2); needs two or more"
    )
    gradient_checkpointing: bool = Field(False, description="recompute activations in the backward pass: less memory")
    compile: bool = Field(False, description="torch.compile the denoiser in place")
    vae_tiling: bool = Field(False, description="decode large images tile by tile: less memory")


class SampleSection(_Section):
    """How trajectories are drawn."""

    steps: int = Field(20, ge=1, le=10_000, description="denoising steps T")
    guidance: float = Field(1.0, ge=0, description="classifier-free guidance scale, in sampling and in training")
    eta: float = Field(
        1.0,
        ge=0,
        le=1,
        description="Noise of DDIM steps. 0 is deterministic, for algorithms that need no log-probabilities.",
    )
    sampler: Literal["flow-sde", "dance-sde", "cps"] = Field("flow-sde", description="noisy steps of flow models")
    stochastic: bool | None = Field(
        None,
        description="Whether training rollouts draw noise. `null` draws it only where the algorithm needs "
        "log-probabilities.",
    )
    noise_level: float = Field(0.7, gt=0, description="noise of flow models' steps: `a` or `eta` of the sampler")
    sde_window_size: int | None = Field(None, ge=1, description="noisy steps, which are trained; None is all of them")
    sde_window_start: int = Field(0, ge=0, description="first noisy step; those outside the window are deterministic")
    sde_window_every: int | None = Field(None, ge=1, description="epochs after which the window moves one step on")
    min_std: float = Field(1e-3, ge=0, description="steps with less noise are sampled but not trained")
    prompts_per_epoch: int | None = Field(8, ge=1, description="prompts drawn per epoch; None is all of them once")
    images_per_prompt: int = Field(8, ge=1, description="images of each drawn prompt: the group of a group advantage")
    batch: int | None = Field(
        None, ge=1, description="images sampled at a time; None is as many as are trained at once"
    )
    evaluation_steps: int | None = Field(
        None, ge=1, le=10_000, description="steps for grids and `sample`; None is `steps`"
    )
    evaluation_noise: bool | None = Field(
        None, description="whether grids and `sample` draw noise; None: DDIM does, flow models do not"
    )
    call: dict[str, Any] = Field({}, description="further arguments of the pipeline's __call__, e.g. height")


class TrainSection(_Section):
    """How the weights are updated.

    An epoch's images are shuffled and split into `updates_per_epoch` groups. Each group is one optimizer update over
    all its images and all their steps, or `sampled_steps` of each, computed `microbatch` (image, step) pairs at a time.
    """

    algorithm: str = Field("ppo", description="How the weights are updated; see `stepcredit list algorithm`.")
    options: dict[str, Any] = Field({}, description="Further options of the algorithm, such as beta of matching.")
    epochs: int = Field(10, ge=0, description="rounds of sampling, scoring and updating")
    learning_rate: float = Field(1.2e-2, gt=0, description="of AdamW, constant")
    weight_decay: float = Field(1e-4, ge=0, description="of AdamW")
    betas: tuple[Momentum, Momentum] = Field((0.9, 0.999), description="of AdamW, each in [0, 1)")
    adam_epsilon: float = Field(1e-8, gt=0, description="of AdamW")
    max_grad_norm: float = Field(1.0, gt=0, description="longer gradients are scaled down to this norm")
    updates_per_epoch: int = Field(4, ge=1, description="optimizer steps per pass over an epoch's images")
    inner_epochs: int = Field(1, ge=1, description="passes over an epoch's images")
    microbatch: Annotated[int, Field(ge=1)] | Literal["auto"] | None = Field(
        None,
        description="(image, step) pairs per training forward, at most the images of an epoch; more than the images of "
        "an update are several steps of them; None is the images of an update at one step, auto what fits into memory",
    )
    sampled_steps: int | None = Field(
        None,
        ge=1,
        description="train on so many steps of each image, drawn anew every epoch and weighted so that the expected "
        "gradient stays the same; None, or as many as are trained, is all of them",
    )
    step_sampling: Literal["credit", "uniform"] = Field(
        "credit",
        description="what the probabilities of sampled_steps are in proportion to: |step advantage| x native scale, or "
        "nothing",
    )
    clip_range: float = Field(1e-2, gt=0, description="c of the clipped ratio; ratios are per latent element")
    kl_weight: float = Field(
        0.0, ge=0, description="weight in the loss of the KL divergence from the untrained model, per latent element"
    )
    kl_space: Literal["log_prob", "prediction"] = Field(
        "log_prob",
        description="what kl_weight weighs: the KL divergence of the steps, or the mean squared distance of the model "
        "outputs, which does not grow where a step has little noise",
    )
    advantage: Literal["group", "running", "batch"] = Field(
        "group", description="standardize rewards per prompt in the epoch, per prompt over a buffer, or over the epoch"
    )
    advantage_clip: float = Field(5.0, gt=0, description="advantages, and step advantages, are cut to +- this")
    buffer_size: int = Field(32, ge=1, description="images remembered per prompt by `running` and credit.standardize")
    min_count: int = Field(16, ge=1, description="images a prompt needs before its own buffer is used")
    max_skipped_updates: int = Field(
        5, ge=0, description="updates in a row that may be skipped because their loss or gradient is not finite"
    )


class CreditSection(_Section):
    """How a trajectory's advantage is spread over its steps."""

    name: str = Field("contribution", description="see `stepcredit list credit`")
    window: int = Field(5, ge=1, description="steps per window of the contribution rules, at most sample.steps")
    alpha: float = Field(0.0, ge=0, le=1, description="1 is no step credit")
    clamp: bool = Field(False, description="set negative contributions to zero")
    standardize: bool = Field(
        True,
        validation_alias=_STANDARDIZE,
        description="second standardization, pooled over a prompt's images and steps",
    )
    options: dict[str, Any] = Field({}, description="further fields of the rule, e.g. gamma of discount")


class ComponentSection(_Section):
    """One reward of a mixture, and how its scores r count in the sum: weight * (r - mean) / scale.

    `standardize` says which mean and scale: `prompt` those of the prompt's images in the epoch (mean and standard
    deviation), `fixed` the ones given here, `none` 0 and 1.
    """

    name: str = Field(description="see `stepcredit list reward`, or module:function")
    options: dict[str, Any] = Field({}, description="arguments of the reward's constructor")
    remote: str | list[str] | None = Field(None, description="as in reward.remote, for this component alone")
    label: str = Field("", description="what figures call it; empty is the name, or the function of module:function")
    weight: float = Field(1.0, ge=-1e9, le=1e9, description="below 0 the score is to fall, at 0 it is only watched")
    standardize: Literal["prompt", "fixed", "none"] = Field(
        "prompt", validation_alias=_STANDARDIZE, description="per prompt, by mean and scale, or raw"
    )
    mean: float = Field(0.0, description="taken away from the scores if fixed")
    scale: float = Field(1.0, gt=0, description="what the scores are divided by if fixed")

    @property
    def called(self) -> str:
        """What metrics, report and errors call it."""
        return self.label or self.name.rpartition(":")[2]

    @model_validator(mode="after")
    def _fixed_only(self) -> ComponentSection:
        if self.standardize != "fixed" and (self.mean, self.scale) != (0.0, 1.0):
            raise ValueError(f"mean and scale go with standardize: fixed, not with standardize: {self.standardize}")
        return self


class RewardSection(_Section):
    """What is maximized."""

    name: str = Field("jpeg_compressibility", description="see `stepcredit list reward`, or module:function")
    options: dict[str, Any] = Field({}, description="arguments of the reward's constructor")
    components: list[ComponentSection] = Field(
        [],
        description="a mixture instead of one reward: name, options, remote, label, weight, standardize (prompt, none, "
        "or fixed with mean and scale) of each",
    )
    remote: str | list[str] | None = Field(
        None,
        description="address of a reward server, or of several, that score instead: `name` is one of theirs, `options` "
        "say how they are asked, see docs/guides/remote-rewards.md",
    )
    overlap: bool = Field(
        True, description="score finished images while others are sampled; False scores an epoch's in one call"
    )
    timeout: float | None = Field(
        1800.0, gt=0, description="seconds a batch may take; then the run keeps a checkpoint and ends; None is for ever"
    )
    ray_workers: int | None = Field(None, ge=1, description="Ray actors that each hold the reward and share a batch")
    ray_gpus: float = Field(0.0, ge=0, description="GPUs that each of the ray_workers reserves; may be a fraction")

    @model_validator(mode="after")
    def _one_place(self) -> RewardSection:
        if self.remote is not None and (self.ray_workers is not None or self.components):
            other = "ray_workers" if self.ray_workers is not None else "components"
            raise ValueError(f"reward.remote and reward.{other} exclude each other: leave one of them out")
        if self.ray_gpus and self.ray_workers is None:
            raise ValueError("reward.ray_gpus goes with reward.ray_workers: give their number too")
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
            raise ValueError(f"reward.components has two called '{twice}': give each a label of its own")
        if not any(component.weight for component in self.components):
            raise ValueError("every reward of the mixture has weight 0: nothing would be learned")
        return self


class PromptsSection(_Section):
    """Which prompts are trained on."""

    source: str = Field("shapes", description="see `stepcredit list prompt`, or a .txt or .jsonl file")
    order: Literal["fixed", "random"] = Field(
        "fixed", description="the first prompts_per_epoch prompts every epoch, or as many random draws"
    )


class RunSection(_Section):
    """Bookkeeping."""

    seed: int = Field(0, ge=0, description="fixes every random number of the run")
    processes: int | None = Field(
        None, ge=1, description="refuse to begin with more or fewer processes; None takes as many as were launched"
    )
    grid_every: int = Field(5, ge=1, description="epochs between sample grids")
    grid_images: int = Field(16, ge=1, description="images on a sample grid")
    checkpoint_every: int = Field(1, ge=1, description="epochs between checkpoints")
    keep_checkpoints: int = Field(2, ge=1, description="newest checkpoints kept")
    keep_best: int = Field(
        1, ge=0, description="checkpoints kept besides: those that the best images of the run were sampled with"
    )
    plugins: list[str] = Field(
        [], description="files (`path/file.py`) or modules of your own that register rewards, credit rules and so on"
    )
    self_check: bool = Field(True, description="replay the first batch before training and refuse a mismatch")
    profile: bool = Field(False, description="write a torch profiler trace and a table of the second epoch to profile/")


class TrainConfig(_Section):
    """A run, complete: written to config.yaml and read back it gives the same run."""

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
        """Images of an epoch, or None where the length of the prompt source decides."""
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
