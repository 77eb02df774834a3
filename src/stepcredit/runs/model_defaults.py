"""Defaults that depend on the model: those of its family, for the keys that the user does not set."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from stepcredit.bundled import BUNDLED
from stepcredit.config import ModelSection, SampleSection, TrainConfig
from stepcredit.families import GENERIC, Defaults, Family, find_family
from stepcredit.runs.changes import current
from stepcredit.runs.model_index import read_model_index
from stepcredit.utils.python_objects import PREFIX, is_python_object

KEYS = (
    "model.dtype",
    "model.lora_rank",
    "model.lora_alpha",
    "sample.steps",
    "sample.evaluation_steps",
    "sample.guidance",
    "sample.call",
    "train.learning_rate",
    "train.clip_range",
    "credit.window",
)
"""The keys whose default depends on the model."""

SECTIONS = ("model", "sample")
"""The sections on whose keys these defaults depend."""

WINDOWS = 10
"""Number of windows of the CoCA paper: 50 steps in windows of 5."""

DISTILLED_NAME = re.compile(r"turbo|schnell|lightning", re.IGNORECASE)
"""Models with such a name are sampled in few steps without guidance. Most of them do not say so in a file."""


@dataclass(frozen=True)
class LoadedModel:
    """What the defaults of a model are found from.

    Attributes:
        classes: the class of the pipeline and its base classes, nearest first.
        name: the folder or hub id that it was loaded from; empty if unknown.
        index: the entries of its model_index.json, or of the configuration of a pipeline object.
    """

    classes: Sequence[str]
    name: str = ""
    index: Mapping[str, Any] = field(default_factory=dict)


def missing_defaults(tree: Mapping[str, Any], config: TrainConfig, loaded: LoadedModel | None) -> dict[str, Any]:
    """The defaults of the KEYS that `tree` does not set, by key. A bundled model has its own, see `BundledModel`.

    - With `sample.steps` set, `sample.evaluation_steps` stays null.
    - With `model.lora_rank` set, `model.lora_alpha` keeps the family's ratio to it.
    - `sample.call` gets the family's height and width unless it has one of them.
    - `credit.window` makes ten windows of `sample.steps`, as the CoCA paper does.
    - `model.dtype` is float32 on a CPU, and bfloat16 for `model.adapter=full` where the family uses float16.

    Args:
        tree: the keys that the user has set, by section.
        config: the configuration of `tree`.
        loaded: the model, if it is a Python object. Otherwise its model_index.json is read.

    Raises:
        InputError: there is no model of that name.
    """
    given = {f"{section}.{key}" for section, keys in tree.items() if isinstance(keys, Mapping) for key in keys}
    if bundled := BUNDLED.get(config.model.path):
        tree = config.model_dump()
        return {
            key: value
            for key, value in bundled.training_defaults.items()
            if key not in given and current(tree, key) != value
        }
    if given.issuperset(KEYS):
        return {}
    found = dict(_values(_defaults(loaded or _read(config.model.path)), config.model, config.sample, given))
    return {key: value for key, value in found.items() if key not in given or key == "sample.call"}


def describe_settings(config: TrainConfig) -> str:
    """The values of KEYS in words."""
    model, sample, train = config.model, config.sample, config.train
    steps = f"{sample.steps} steps"
    if sample.evaluation_steps is not None:
        steps += f" ({sample.evaluation_steps} in sample grids and evaluation)"
    height, width = (sample.call.get(name) for name in ("height", "width"))
    size = f", {height} x {width} pixels" if height is not None and width is not None else ""
    trained = f"LoRA of rank {model.lora_rank}" if model.adapter == "lora" else "all weights"
    return (
        f"learning rate {train.learning_rate:g}, clip range {train.clip_range:g}, guidance {sample.guidance:g}, "
        f"{steps}, windows of {config.credit.window}, {trained}, {model.dtype}{size}"
    )


def _read(path: str) -> LoadedModel:
    if is_python_object(path):
        return LoadedModel([path.removeprefix(PREFIX)])
    index = read_model_index(path) or {}
    return LoadedModel([str(index.get("_class_name"))], path, index)


def _defaults(model: LoadedModel) -> Defaults:
    """The defaults of a model's family, with the model's own steps (`sample_sigmas`) or guidance where it has some."""
    name = re.split(r"[/\\]", model.name.rstrip("/\\"))[-1]
    distilled = model.index.get("is_distilled") is True or DISTILLED_NAME.search(name) is not None
    family = find_family(model.classes)
    defaults = family.defaults_of(distilled)
    guidance = _own_guidance(model.classes, family) if family is GENERIC else None
    if guidance is not None:
        defaults = replace(defaults, guidance=guidance)
    sigmas = model.index.get("sample_sigmas")
    steps = len(sigmas) if isinstance(sigmas, list | tuple) else 0
    return replace(defaults, steps=steps, evaluation_steps=steps) if steps else defaults


def _own_guidance(classes: Sequence[str], family: Family) -> float | None:
    """The guidance that a pipeline of diffusers has by default; None for another class, or without a default."""
    names = [name for name in classes if name.endswith("Pipeline")]
    if not names:
        return None
    import diffusers  # takes seconds, but so does training

    try:
        kind = next((found for name in names if (found := getattr(diffusers, name, None)) is not None), object)
    except (ImportError, RuntimeError):  # a dependency is missing; loading the pipeline will say which
        return None
    parameter = inspect.signature(kind.__call__).parameters.get(family.guidance)
    default = parameter.default if parameter is not None else None
    return float(default) if isinstance(default, int | float) else None


def _values(
    defaults: Defaults, model: ModelSection, sample: SampleSection, given: set[str]
) -> Iterator[tuple[str, Any]]:
    yield "model.lora_rank", defaults.lora_rank
    rank = model.lora_rank if "model.lora_rank" in given else defaults.lora_rank
    yield "model.lora_alpha", rank * defaults.lora_alpha / defaults.lora_rank
    yield "sample.steps", defaults.steps
    if "sample.steps" not in given and defaults.evaluation_steps != defaults.steps:
        yield "sample.evaluation_steps", defaults.evaluation_steps
    yield "sample.guidance", defaults.guidance
    if defaults.size is not None and not {"height", "width"} & sample.call.keys():
        yield "sample.call", {"height": defaults.size, "width": defaults.size, **sample.call}
    yield "train.learning_rate", defaults.full_learning_rate if model.adapter == "full" else defaults.learning_rate
    yield "train.clip_range", defaults.clip_range
    steps = sample.steps if "sample.steps" in given else defaults.steps
    yield "credit.window", max(1, steps // WINDOWS)
    if "model.dtype" not in given:
        yield "model.dtype", _dtype(defaults, model)


def _dtype(defaults: Defaults, model: ModelSection) -> str:
    from stepcredit.utils.devices import find_device  # imports torch

    if find_device(model.device, "model.device").type == "cpu":
        return "float32"
    return "bfloat16" if model.adapter == "full" and defaults.dtype == "float16" else defaults.dtype
