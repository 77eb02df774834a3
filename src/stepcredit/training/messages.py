"""What a run tells its user at its start and end."""

from __future__ import annotations

import math
import shlex

from stepcredit.algorithms import has_clip_range
from stepcredit.config import BUNDLED_MODELS
from stepcredit.prompts.draw import describe_draw
from stepcredit.runs import checkpoint
from stepcredit.runs.model_defaults import describe_settings
from stepcredit.training.checkpointing import how_to_resume
from stepcredit.training.result import TrainResult
from stepcredit.training.trainer import TrainingLoop

_FAR = 30
"""Comparisons tune the learning rate within a factor of 3, and clip ranges within one of 5, around the default."""


def interruption(loop: TrainingLoop) -> str:
    """What an interrupted run has saved, and how to resume it."""
    saved = checkpoint.folders(loop.run.checkpoint_root)
    if not saved:
        return "interrupted before the first checkpoint; nothing was saved"
    return f"interrupted; saved {saved[-1]}, resume with: {how_to_resume(loop.run.path, loop.config)}"


def opening(loop: TrainingLoop) -> str:
    """What a run trains, as it starts."""
    config, finished = loop.config, loop.finished_epochs
    start = f"resuming after epoch {finished}" if finished else "training"
    images, processes = len(loop.draw_prompts(epoch=0)), loop.processes
    sharding = f", weights sharded over {processes.world_size} ranks by FSDP2" if processes.sharded else ""
    return (
        f"{start}: {config.model.path}, reward {config.reward.name}, credit {config.credit.name}, "
        f"{images} images x {config.sample.steps} steps an epoch{sharding}, in {loop.run.path}"
    )


def settings(loop: TrainingLoop) -> str | None:
    """The settings whose defaults depend on the model; None for a bundled model."""
    config = loop.config
    return None if config.model.path in BUNDLED_MODELS else f"settings: {describe_settings(config)}"


def unusual_settings(loop: TrainingLoop) -> str | None:
    """A note about a learning rate or clip range far above the default of the model's family.

    Recipes for a bundled model, and trainers whose ratios are not per latent element, have such values.
    """
    from stepcredit.policy.pipeline import PipelinePolicy  # diffusers takes seconds to import

    config, policy = loop.config, loop.parts.policy
    if config.model.path in BUNDLED_MODELS or not isinstance(policy, PipelinePolicy):
        return None
    usual = policy.family.defaults
    rate = usual.full_learning_rate if config.model.adapter == "full" else usual.learning_rate
    values = {"train.learning_rate": (config.train.learning_rate, rate)}
    if has_clip_range(config.train.algorithm):
        values["train.clip_range"] = (config.train.clip_range, usual.clip_range)
    far = {key: pair for key, pair in values.items() if pair[0] > _FAR * pair[1]}
    found = " and ".join(f"{key} is {given:g}" for key, (given, _) in far.items())
    defaults = " ".join(f"{key}={default:g}" for key, (_, default) in far.items())
    return f"note: {found}, far above the default of the model's family: {defaults}" if far else None


def prompts_used(loop: TrainingLoop) -> str:
    """How many prompts of how many are used."""
    config = loop.config
    return describe_draw(
        len(loop.parts.prompts),
        count=config.sample.prompts_per_epoch,
        order=config.prompts.order,
        epochs=config.train.epochs,
        source="your program" if "prompts.source" in config.python_objects else config.prompts.source,
    )


def closing(loop: TrainingLoop, result: TrainResult) -> str:
    """What a run has achieved, and where its files are."""
    rows = result.history
    if not rows:
        return f"no training: train.epochs is 0; {result.output_dir} holds the first sample grid"
    first, last = (math.nan if row["reward_mean"] is None else row["reward_mean"] for row in (rows[0], rows[-1]))
    change = f"{first:.3f} -> {last:.3f}" if len(rows) > 1 else f"{first:.3f}"
    sample = (
        f"  sample    stepcredit sample {shlex.quote(str(result.output_dir))} "
        f"--prompt {shlex.quote(loop.parts.prompts[0].text)} --out samples"
    )
    return "\n".join(
        [
            f"reward {change} after {rows[-1]['reward_queries']} reward queries",
            f"  pictures  {result.before}  (before)",
            f"            {result.after}  (after)",
            f"  curve     {loop.run.report_path}",
            f"  weights   {result.weights}",
            *([] if "model.path" in loop.config.python_objects else [sample]),
        ]
    )
