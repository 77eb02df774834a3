"""The arguments of `sample.call`, which a user passes on to the pipeline's `__call__`."""

from __future__ import annotations

import inspect

from diffusers import DiffusionPipeline

from stepcredit.config import SampleSection
from stepcredit.errors import InputError, unknown

_NOT_REPLAYED = "it cannot be replayed"
_SET_BY_POLICY = "the policy sets it"
_RESERVED = {
    "prompt": "prompts come from prompts.source",
    "num_inference_steps": "it is sample.steps",
    "eta": "it is sample.eta",
    "num_images_per_prompt": "it is sample.images_per_prompt",
    **dict.fromkeys(("generator", "latents", "output_type", "return_dict"), _SET_BY_POLICY),
    **dict.fromkeys(("prompt_embeds", "negative_prompt_embeds", "timesteps", "sigmas"), _NOT_REPLAYED),
}


def require_valid_call(pipeline: DiffusionPipeline, sample: SampleSection, guidance: str) -> None:
    """Check `sample` against the signature of the pipeline's `__call__` and its noise schedule.

    Args:
        guidance: the argument that `sample.guidance` is passed as.

    Raises:
        InputError: `sample.call` has an unknown or reserved argument, there are more steps than noise levels, or the
            pipeline has another number of steps of its own.
    """
    known = [name for name in inspect.signature(type(pipeline).__call__).parameters if name != "self"]
    reserved = {**_RESERVED, guidance: "it is sample.guidance"}
    for name in sample.call:
        if name in reserved:
            raise InputError(f"sample.call.{name} cannot be set: {reserved[name]}")
        if name not in known:
            raise unknown(f"argument of {type(pipeline).__name__} in sample.call", name, set(known) - reserved.keys())
    fixed = own_steps(pipeline)
    for key, steps in (("steps", sample.steps), ("evaluation_steps", sample.evaluation_steps)):
        if fixed is not None and steps not in (fixed, None):
            raise InputError(
                f"sample.{key} is {steps}, but this {type(pipeline).__name__} has noise levels of its own for {fixed} "
                f"steps (sample_sigmas): set sample.{key}={fixed}"
            )
    levels = pipeline.scheduler.config.num_train_timesteps
    if max(sample.steps, sample.evaluation_steps or 0) > levels:
        raise InputError(f"sample.steps is {sample.steps} but the model has only {levels} noise levels")


def own_steps(pipeline: DiffusionPipeline) -> int | None:
    """The number of steps of a pipeline that ignores `num_inference_steps`, as Qwen-Image 2.1 Turbo does; else None."""
    sigmas = pipeline.config.get("sample_sigmas")
    return len(sigmas) if sigmas else None
