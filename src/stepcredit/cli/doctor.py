"""`stepcredit doctor`: can this model be trained, how, and with how many images at a time."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from stepcredit.algorithms.minibatch import microbatch
from stepcredit.config import TrainConfig
from stepcredit.runs import recipes

if TYPE_CHECKING:
    from stepcredit.policy.checks.doctor import Examination

STEPS = 4
"""Steps of the trajectory that is replayed; enough to tell whether replays are exact."""


def doctor(model: str, overrides: Sequence[str], as_json: bool) -> None:
    """Load a model as `train` would with the same overrides, and print what was found."""
    config = recipes.load(None, [f"model.path={model}", *overrides])

    from stepcredit.policy.checks.doctor import examine  # diffusers takes longest to import
    from stepcredit.policy.loading import load_pipeline, make_policy, usual_sampling
    from stepcredit.utils.logging import quiet_libraries

    quiet_libraries()
    pipeline = load_pipeline(config.model)
    asked = {word.partition("=")[0] for word in overrides}
    usual = {"steps": STEPS, "guidance": usual_sampling(pipeline, model)["guidance"]}
    sample = {name: value for name, value in usual.items() if f"sample.{name}" not in asked}
    config = config.model_copy(update={"sample": config.sample.model_copy(update=sample)})
    found = examine(make_policy(pipeline, config), config)
    print(json.dumps(_plain(found), indent=1) if as_json else _text(model, config, found))


def _plain(found: Examination) -> dict[str, Any]:
    check = {**asdict(found.check), "exact": found.check.max_deviation == 0}
    return {**asdict(found), "check": check}


def _text(model: str, config: TrainConfig, found: Examination) -> str:
    adapter = f"LoRA of rank {config.model.lora_rank}" if config.model.adapter == "lora" else "every weight"
    reached = "a gradient reaches all of it" if not found.idle else f"no gradient reaches {found.idle} of its tensors"
    latents = "x".join(map(str, found.latents))
    fits = (
        f"train.microbatch={found.microbatch} fits into the {_size(found.free_bytes)} free on {found.device}"
        if found.microbatch
        else f"not even one image fits into the {_size(found.free_bytes)} free on {found.device}"
    )
    lines = {
        "model": f"{model}: {found.pipeline}, family {found.family}, latents {latents}, {config.model.dtype}",
        "sampler": f"{found.scheduler}, in place of {found.replaces}, whose steps have no density"
        if not found.replaces.startswith("DDIM")
        else found.scheduler,
        "replay": str(found.check),
        "trained": f"{adapter}: {found.trained:,} of {found.weights:,} weights of the denoiser; {reached}",
        "memory": f"{_size(found.fixed_bytes)} for weights and optimizer, {_size(found.sample_bytes)} per image of a "
        f"micro-batch{_of_this_configuration(config, found)}",
        "suggested": fits,
    }
    return "\n".join(f"{name:<10} {text}" for name, text in lines.items())


def _of_this_configuration(config: TrainConfig, found: Examination) -> str:
    if config.images_per_epoch is None:
        return ""
    if config.train.microbatch == "auto":
        return f", {_size(found.microbatch * found.sample_bytes)} for the {found.microbatch} that auto would choose"
    images = microbatch(config.train, config.images_per_epoch)
    return f", {_size(images * found.sample_bytes)} for the {images} of this configuration"


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.1f} GB"
