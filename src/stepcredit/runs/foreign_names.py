"""Names that other trainers use, with the key that does the same here and how it differs.

Hints of error messages and the page docs/guides/other-trainers.md come from this table.
"""

from __future__ import annotations

from dataclasses import dataclass

TRL, FLOW_GRPO, DIFFUSERS, KOHYA, AI_TOOLKIT = "TRL", "flow_grpo", "diffusers", "kohya", "ai-toolkit"


@dataclass(frozen=True)
class ForeignName:
    """Names that other trainers use for the same setting.

    Attributes:
        names: as other trainers write them; `section.name` applies to that section only.
        used_by: the trainers.
        key: key or command-line option here; empty if there is none.
        difference: what to know when a value is carried over, or what to do if there is no key.
    """

    names: tuple[str, ...]
    used_by: tuple[str, ...]
    key: str
    difference: str


def foreign_hint(key: str, *, whole: bool = False) -> str:
    """A hint for an error message: which key here replaces a key of another trainer. Empty if none uses the name.

    Leading dashes, hyphens and capitals do not matter: `--learning-rate` is `learning_rate`.

    Args:
        key: with or without a section, such as `train.beta`.
        whole: match the name only together with its section, as in `train.steps`.
    """
    name = _plain(key)
    if name not in _BY_NAME and not whole:
        name = name.rpartition(".")[2]
    entry = None if whole and "." not in name else _BY_NAME.get(name)
    if entry is None:
        return ""
    here = f"is {entry.key} here" if entry.key else "has no key here"
    *others, last = entry.used_by
    users = f"{', '.join(others)} and {last}" if others else last
    return f"'{name.rpartition('.')[2]}' of {users} {here}: {entry.difference}"


def _plain(key: str) -> str:
    return key.strip().lstrip("-").replace("-", "_").lower()


def _row(names: str, used_by: tuple[str, ...], key: str, difference: str) -> ForeignName:
    return ForeignName(tuple(names.split()), used_by, key, difference)


_SAME = "same meaning"
_SIZE = "an argument of the pipeline, in pixels; set sample.call.width as well"
_WIDTH = "an argument of the pipeline, in pixels; set sample.call.height as well"
_BATCH = "counts (image, step) pairs per forward; gradients are accumulated over the images of an update"
_ACCUMULATION = "an update accumulates over its images by itself; more updates per epoch have fewer images each"
_CONSTANT = "the learning rate is constant"
_ONLY_ADAMW = "the optimizer is AdamW; set train.betas, train.weight_decay and train.adam_epsilon"
_ONLY_DENOISER = "only the denoiser is trained"
_NO_DATA = "training images are sampled from prompts, not read from a data set; set prompts.source"

FOREIGN_NAMES: tuple[ForeignName, ...] = (
    # model
    _row(
        "pretrained_model_name_or_path pretrained_model name_or_path pretrained.model model_name model_name_or_path "
        "model_id base_model",
        (TRL, FLOW_GRPO, DIFFUSERS, KOHYA, AI_TOOLKIT),
        "model.path",
        "hub id or folder of a diffusers pipeline",
    ),
    _row(
        "mixed_precision bf16 fp16 full_bf16 full_fp16 torch_dtype weight_dtype precision save_precision",
        (TRL, FLOW_GRPO, DIFFUSERS, KOHYA),
        "model.dtype",
        "float32, bfloat16 or float16, of the frozen weights; trained weights are float32",
    ),
    _row("rank network_dim lora_r linear dim", (DIFFUSERS, KOHYA, AI_TOOLKIT), "model.lora_rank", _SAME),
    _row(
        "network_alpha linear_alpha alpha model.alpha",
        (KOHYA, AI_TOOLKIT),
        "model.lora_alpha",
        "null means alpha = rank, which is also the default of diffusers' scripts",
    ),
    _row(
        "target_modules lora_target_modules lora_layers network_args",
        (TRL, DIFFUSERS, KOHYA),
        "model.lora_targets",
        "a list; a layer is trained if its name ends in an entry",
    ),
    _row(
        "use_lora use_peft network_module lora full_finetune network",
        (TRL, FLOW_GRPO, KOHYA, AI_TOOLKIT),
        "model.adapter",
        "lora or full",
    ),
    _row(
        "use_ema ema_decay ema_config train.ema",
        (FLOW_GRPO, DIFFUSERS, AI_TOOLKIT),
        "model.ema",
        "the decay, such as 0.99; null keeps no average",
    ),
    _row("activation_checkpointing", (FLOW_GRPO,), "model.gradient_checkpointing", _SAME),
    _row("use_fsdp fsdp", (TRL, FLOW_GRPO), "model.shard", "FSDP2 of the denoiser"),
    _row("vae_slicing enable_vae_tiling enable_vae_slicing", (DIFFUSERS,), "model.vae_tiling", _SAME),
    _row("torch_compile compile_model", (TRL, DIFFUSERS), "model.compile", _SAME),
    # sampling
    _row(
        "num_steps sample_num_steps num_inference_steps sample_steps sampling_steps",
        (TRL, FLOW_GRPO, DIFFUSERS, AI_TOOLKIT),
        "sample.steps",
        "denoising steps of training and of samples",
    ),
    _row(
        "eval_num_steps validation_steps",
        (FLOW_GRPO, DIFFUSERS),
        "sample.evaluation_steps",
        "denoising steps of sample grids, `sample` and `evaluate`",
    ),
    _row(
        "guidance_scale sample_guidance_scale cfg_scale cfg true_cfg_scale",
        (TRL, FLOW_GRPO, DIFFUSERS, KOHYA, AI_TOOLKIT),
        "sample.guidance",
        "used in sampling and in training; 1 is off for most models",
    ),
    _row("sample_eta", (TRL,), "sample.eta", _SAME),
    _row("height resolution", (FLOW_GRPO, DIFFUSERS, KOHYA, AI_TOOLKIT), "sample.call.height", _SIZE),
    _row("width", (FLOW_GRPO, DIFFUSERS, KOHYA, AI_TOOLKIT), "sample.call.width", _WIDTH),
    _row(
        "negative_prompt negative_prompts neg sample_negative_prompt",
        (TRL, DIFFUSERS, KOHYA, AI_TOOLKIT),
        "sample.call.negative_prompt",
        "an argument of the pipeline",
    ),
    _row(
        "max_sequence_length max_token_length max_prompt_length",
        (TRL, DIFFUSERS, KOHYA),
        "sample.call.max_sequence_length",
        "an argument of the pipeline, where it has one",
    ),
    _row("clip_skip", (KOHYA,), "sample.call.clip_skip", "an argument of the pipeline, where it has one"),
    _row(
        "num_image_per_prompt num_images_per_prompt num_generations num_generations_per_prompt group_size",
        (TRL, FLOW_GRPO),
        "sample.images_per_prompt",
        "the images of a prompt in one epoch, which form a group",
    ),
    _row(
        "num_batches_per_epoch sample_num_batches_per_epoch unique_prompts_per_epoch",
        (TRL, FLOW_GRPO),
        "sample.prompts_per_epoch",
        "counts prompts of all processes, not batches",
    ),
    _row(
        "sample_batch_size sample.train_batch_size test_batch_size sample.batch_size generation_batch_size",
        (TRL, FLOW_GRPO),
        "sample.batch",
        "images sampled at a time on each process; it does not change how many images an epoch has",
    ),
    _row("sde_type", (FLOW_GRPO,), "sample.sampler", "write flow-sde for `sde`; `cps` is the same here"),
    _row(
        "sde_window_range",
        (FLOW_GRPO,),
        "sample.sde_window_start",
        "the first step of the window; it moves with sde_window_every",
    ),
    _row(
        "noise_scheduler sampler scheduler",
        (KOHYA, AI_TOOLKIT),
        "sample.sampler",
        "for flow models; noise levels are those of the model's own scheduler",
    ),
    # training
    _row(
        "num_epochs num_train_epochs max_train_epochs max_epochs",
        (TRL, FLOW_GRPO, DIFFUSERS, KOHYA),
        "train.epochs",
        "an epoch samples, scores and trains on new images",
    ),
    _row(
        "max_train_steps max_steps train.steps total_steps",
        (TRL, DIFFUSERS, KOHYA, AI_TOOLKIT),
        "train.epochs",
        "optimizer steps are train.epochs x train.updates_per_epoch x train.inner_epochs",
    ),
    _row(
        "lr train_learning_rate unet_lr transformer_lr denoiser_lr",
        (TRL, KOHYA, AI_TOOLKIT),
        "train.learning_rate",
        "the learning rate of AdamW, which is constant",
    ),
    _row("text_encoder_lr train_text_encoder te_lr", (DIFFUSERS, KOHYA, AI_TOOLKIT), "", _ONLY_DENOISER),
    _row(
        "lr_scheduler lr_scheduler_type lr_warmup_steps warmup_steps warmup_ratio lr_scheduler_args lr_num_cycles",
        (TRL, DIFFUSERS, KOHYA, AI_TOOLKIT),
        "",
        _CONSTANT,
    ),
    _row(
        "optimizer optim optimizer_type use_8bit_adam train_use_8bit_adam optimizer_args optimizer_params",
        (TRL, FLOW_GRPO, DIFFUSERS, KOHYA, AI_TOOLKIT),
        "",
        _ONLY_ADAMW,
    ),
    _row(
        "adam_beta1 adam_beta2 train_adam_beta1 train_adam_beta2",
        (TRL, FLOW_GRPO, DIFFUSERS),
        "train.betas",
        "both in one list, such as [0.9,0.999]",
    ),
    _row("adam_weight_decay train_adam_weight_decay", (TRL, FLOW_GRPO, DIFFUSERS), "train.weight_decay", _SAME),
    _row("train_adam_epsilon", (TRL,), "train.adam_epsilon", _SAME),
    _row(
        "train_max_grad_norm max_norm gradient_clipping grad_clip",
        (TRL, KOHYA, AI_TOOLKIT),
        "train.max_grad_norm",
        _SAME,
    ),
    _row(
        "batch_size train_batch_size per_device_train_batch_size train.batch_size",
        (TRL, FLOW_GRPO, DIFFUSERS, KOHYA, AI_TOOLKIT),
        "train.microbatch",
        _BATCH,
    ),
    _row(
        "gradient_accumulation_steps gradient_accumulation train_gradient_accumulation_steps",
        (TRL, FLOW_GRPO, DIFFUSERS, KOHYA, AI_TOOLKIT),
        "train.updates_per_epoch",
        _ACCUMULATION,
    ),
    _row(
        "num_inner_epochs train_num_inner_epochs num_iterations ppo_epochs",
        (TRL, FLOW_GRPO),
        "train.inner_epochs",
        _SAME,
    ),
    _row("train_clip_range", (TRL,), "train.clip_range", "ratios are per latent element, as in TRL"),
    _row(
        "epsilon epsilon_high epsilon_low cliprange clip_eps",
        (TRL,),
        "train.clip_range",
        "ratios are per latent element, so usual values are 1e-5 to 1e-3 and not 0.2",
    ),
    _row(
        "beta kl_coef kl_beta kl_coeff kl_ratio init_kl_coef",
        (TRL, FLOW_GRPO),
        "train.kl_weight",
        "with train.kl_space=flow_grpo, the values of flow_grpo need no conversion",
    ),
    _row(
        "global_std",
        (FLOW_GRPO,),
        "train.advantage_std",
        "write batch for true and group for false; flow_grpo also uses train.advantage_epsilon=1e-4",
    ),
    _row(
        "zero_std_ratio frac_reward_zero_std filter_zero_std dynamic_sampling",
        (TRL, FLOW_GRPO),
        "train.skip_constant_groups",
        "flow_grpo always leaves out images whose advantage is 0; the metric constant_groups counts the prompts",
    ),
    _row("adv_clip_max train_adv_clip_max advantage_clip_max", (TRL, FLOW_GRPO), "train.advantage_clip", _SAME),
    _row(
        "per_prompt_stat_tracking scale_rewards advantage_type adv_mode",
        (TRL, FLOW_GRPO),
        "train.advantage",
        "group, running or batch; running is per-prompt tracking over several epochs",
    ),
    _row(
        "per_prompt_stat_tracking_buffer_size per_prompt_stat_tracking.buffer_size",
        (TRL,),
        "train.buffer_size",
        "images per prompt",
    ),
    _row(
        "per_prompt_stat_tracking_min_count per_prompt_stat_tracking.min_count",
        (TRL,),
        "train.min_count",
        "images per prompt",
    ),
    _row(
        "train_timestep_fraction num_train_timesteps_per_sample",
        (TRL,),
        "train.sampled_steps",
        "a number of steps, not a fraction; each image gets its own random steps",
    ),
    _row(
        "loss_type algorithm_name trainer",
        (TRL,),
        "train.algorithm",
        "`stepcredit list algorithm` lists the algorithms",
    ),
    _row("train_cfg", (TRL,), "sample.guidance", "guidance is used in training if it is used in sampling"),
    _row(
        "min_snr_gamma snr_gamma noise_offset timestep_type weighting_scheme",
        (DIFFUSERS, KOHYA, AI_TOOLKIT),
        "",
        "there is no denoising loss; the credit rule weights the steps (credit.name)",
    ),
    # reward and prompts
    _row(
        "reward_fn reward_funcs reward_func reward_function reward_model reward_type",
        (TRL, FLOW_GRPO),
        "reward.name",
        "for several rewards with weights, set reward.components",
    ),
    _row("reward_weights", (TRL, FLOW_GRPO), "reward.components", "a list; each entry has a name and a weight"),
    _row(
        "prompt_fn prompt_function dataset dataset_name train_data_dir prompts_file prompt_file instance_prompt "
        "train_dataset prompt_path prompts.file prompts.path",
        (TRL, FLOW_GRPO, DIFFUSERS, KOHYA),
        "prompts.source",
        "a prompt list, a file or a function that returns prompts",
    ),
    _row(
        "cache_latents cache_latents_to_disk caption_column image_column instance_data_dir datasets "
        "caption_dropout_rate",
        (DIFFUSERS, KOHYA, AI_TOOLKIT),
        "",
        _NO_DATA,
    ),
    # run
    _row("random_seed manual_seed walk_seed", (DIFFUSERS, KOHYA, AI_TOOLKIT), "run.seed", _SAME),
    _row(
        "output_dir logging_dir logdir run_name output_name save_dir project_dir save_root training_folder",
        (TRL, FLOW_GRPO, DIFFUSERS, KOHYA, AI_TOOLKIT),
        "--run",
        "the run directory; in Python, the argument output_dir of Trainer",
    ),
    _row(
        "resume_from_checkpoint resume_from resume",
        (TRL, FLOW_GRPO, DIFFUSERS, KOHYA),
        "--resume",
        "give the run directory with --run; the run resumes from its newest checkpoint",
    ),
    _row("log_with report_to use_wandb", (TRL, FLOW_GRPO, DIFFUSERS), "run.trackers", "a list, such as [tensorboard]"),
    _row(
        "save_freq save_steps checkpointing_steps save_every save_every_n_epochs",
        (TRL, FLOW_GRPO, DIFFUSERS, KOHYA, AI_TOOLKIT),
        "run.checkpoint_every",
        "counts epochs",
    ),
    _row(
        "num_checkpoint_limit save_total_limit checkpoints_total_limit save_last_n_epochs max_step_saves_to_keep",
        (TRL, FLOW_GRPO, DIFFUSERS, KOHYA, AI_TOOLKIT),
        "run.keep_checkpoints",
        _SAME,
    ),
    _row(
        "eval_freq eval_steps validation_epochs sample_every sample_every_n_epochs sample_freq",
        (TRL, FLOW_GRPO, DIFFUSERS, KOHYA, AI_TOOLKIT),
        "run.grid_every",
        "counts epochs; the grids show training prompts",
    ),
    _row(
        "validation_prompt validation_prompts sample_prompts num_validation_images",
        (DIFFUSERS, KOHYA, AI_TOOLKIT),
        "run.grid_images",
        "the number of images on a grid; the grids show training prompts",
    ),
    _row(
        "num_processes num_gpus world_size",
        (DIFFUSERS, KOHYA),
        "run.processes",
        "only checks the number; torchrun or accelerate starts the processes",
    ),
    _row("logging_steps log_every log_freq", (TRL, AI_TOOLKIT), "", "every epoch is logged"),
    _row(
        "allow_tf32 tf32 sdpa xformers enable_xformers_memory_efficient_attention",
        (TRL, FLOW_GRPO, DIFFUSERS, KOHYA),
        "",
        "set it with torch or diffusers in a plugin (run.plugins)",
    ),
)

_BY_NAME = {name: entry for entry in FOREIGN_NAMES for name in entry.names}
