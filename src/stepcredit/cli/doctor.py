"""`stepcredit doctor`: check whether a model can be trained, and which batch size fits."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from stepcredit.algorithms.minibatch import microbatch
from stepcredit.config import BUNDLED_MODELS, TrainConfig
from stepcredit.prompts import load_prompts
from stepcredit.prompts.text_limit import TextLimit, describe_cuts
from stepcredit.runs import recipes
from stepcredit.runs.model_defaults import KEYS, describe_settings

if TYPE_CHECKING:
    from stepcredit.policy.checks.doctor import Examination

STEPS = 4
"""Steps of the trajectory that is replayed: enough to see whether replays are exact."""


def doctor(model: str, overrides: Sequence[str], as_json: bool) -> None:
    """Load a model as `train` would with the same overrides, and print the result of the checks."""
    config = recipes.load(None, [f"model.path={model}", *overrides])

    from stepcredit.policy.checks.doctor import examine  # diffusers takes seconds to import
    from stepcredit.policy.loading import load_pipeline, make_policy
    from stepcredit.policy.text_limits import text_limits
    from stepcredit.utils.logging import quiet_libraries

    quiet_libraries()
    given = {word.partition("=")[0] for word in overrides}
    texts = [prompt.text for prompt in load_prompts(config.prompts.source)] if "prompts.source" in given else []
    short = config
    if "sample.steps" not in given:
        short = config.model_copy(update={"sample": config.sample.model_copy(update={"steps": STEPS})})
    policy = make_policy(load_pipeline(config.model), short)
    prompts = Prompts(config.prompts.source, text_limits(policy), texts)
    result = examine(policy, short)
    print(json.dumps(_plain(config, result, prompts), indent=1) if as_json else _text(model, config, result, prompts))


@dataclass(frozen=True)
class Prompts:
    """How much of a prompt the text encoders read, and the prompts of `prompts.source` if that was given."""

    source: str
    limits: Sequence[TextLimit]
    texts: Sequence[str]

    def __str__(self) -> str:
        cut = describe_cuts("the model", self.limits, self.texts)
        if cut is not None:
            return cut
        limits = ", ".join(f"{limit.name} reads {limit.tokens} tokens" for limit in self.limits)
        fits = f"; none of the {len(self.texts)} prompts of {self.source} is cut" if self.texts else ""
        return f"{limits or 'no limit was found'}{fits}"

    def plain(self) -> dict[str, Any]:
        limits = {limit.name: {"tokens": limit.tokens, "cut": len(limit.cut(self.texts))} for limit in self.limits}
        return {"source": self.source, "count": len(self.texts), "limits": limits}


def _plain(config: TrainConfig, result: Examination, prompts: Prompts) -> dict[str, Any]:
    check = {**asdict(result.check), "exact": result.check.max_deviation == 0}
    tree = config.model_dump(mode="json")
    settings = {key: tree[key.partition(".")[0]][key.partition(".")[2]] for key in KEYS}
    return {**asdict(result), "check": check, "prompts": prompts.plain(), "settings": settings}


def _text(model: str, config: TrainConfig, result: Examination, prompts: Prompts) -> str:
    lines = {
        "model": f"{model}: {result.pipeline}, family {result.family}, latents {'x'.join(map(str, result.latents))}, "
        f"{config.model.dtype}",
        "settings": _settings(model, config, result),
        "sampler": _sampler(result),
        "replay": str(result.check),
        "prompts": str(prompts),
        "trained": _trained(config, result),
        "memory": f"{_size(result.fixed_bytes)} for weights and optimizer, {_size(result.sample_bytes)} per image of a "
        f"micro-batch{_microbatch(config, result)}",
        "suggested": _suggestion(result),
    }
    return "\n".join(f"{name:<10} {text}" for name, text in lines.items())


def _settings(model: str, config: TrainConfig, result: Examination) -> str:
    text = describe_settings(config)
    return text if model in BUNDLED_MODELS else f"{text}; source of the defaults: {result.defaults_source}"


def _sampler(result: Examination) -> str:
    if result.replaces.startswith("DDIM"):
        return result.scheduler
    return f"{result.scheduler}, at the noise levels of {result.replaces}"


def _trained(config: TrainConfig, result: Examination) -> str:
    adapter = f"LoRA of rank {config.model.lora_rank}" if config.model.adapter == "lora" else "all weights"
    gradient = "all get a gradient" if not result.idle else f"{result.idle} tensors get no gradient"
    return f"{adapter}: {result.trained:,} of {result.weights:,} weights of the denoiser; {gradient}"


def _suggestion(result: Examination) -> str:
    free = f"the {_size(result.free_bytes)} free on {result.device}"
    if not result.microbatch:
        return f"not even one image fits into {free}"
    return f"train.microbatch={result.microbatch} fits into {free}"


def _microbatch(config: TrainConfig, result: Examination) -> str:
    """The memory of a micro-batch of this configuration, if its size is known."""
    if config.images_per_epoch is None:
        return ""
    if config.train.microbatch == "auto":
        return f", {_size(result.microbatch * result.sample_bytes)} for the {result.microbatch} that auto would choose"
    images = microbatch(config.train, config.images_per_epoch)
    return f", {_size(images * result.sample_bytes)} for the {images} of this configuration"


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.1f} GB"
