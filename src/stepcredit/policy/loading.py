"""Loads pipelines from paths, and makes policies from configurations."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

import diffusers
import torch
import transformers
from diffusers import DiffusionPipeline
from huggingface_hub import list_repo_files, try_to_load_from_cache
from torch import nn

from stepcredit.config import ModelSection, SampleSection, TrainConfig
from stepcredit.errors import InputError
from stepcredit.families import family_of
from stepcredit.policy.adapters import attach, freeze
from stepcredit.policy.adapters.denoiser import denoiser_name
from stepcredit.policy.pipeline import PipelinePolicy
from stepcredit.policy.replay.reentry import undecorated_call
from stepcredit.policy.replay.schedulers import recording_scheduler
from stepcredit.policy.samplers import SAMPLERS
from stepcredit.runs.model_index import INDEX, not_found
from stepcredit.shapes import pipeline as embedded
from stepcredit.utils.devices import find_device
from stepcredit.utils.hub import download_problem, explain, is_cached
from stepcredit.utils.paths import expanded

_REQUIRED_ARGUMENTS = ("prompt", "num_inference_steps", "generator", "output_type")
_OTHER_TASKS = ("image", "mask_image", "control_image", "video", "num_frames", "video_length", "audio_length_in_s")
_VOCABULARIES = ("tokenizer.json", "vocab*", "*.model", "*.tiktoken")
_WEIGHTS = re.compile(
    r"(?:diffusion_pytorch_model|pytorch_model|model)(?:-\d+-of-\d+)?(?:\.(\w+))??(?:-\d+-of-\d+)?\.(?:safetensors|bin)"
)
"""A file of weights, or of a shard of them, and its variant."""
_OPTIONAL_PARTS = ("text_encoder_3", "tokenizer_3")
"""Stable Diffusion 3 works without its T5, although its class does not list it as optional."""


def load_policy(config: TrainConfig, *, safety_checker: bool = False) -> PipelinePolicy:
    """The policy of a configuration, untrained, on its device.

    Args:
        safety_checker: whether to keep the pipeline's safety checker. It replaces flagged images by black ones, which
            a reward would score.
    """
    return make_policy(load_pipeline(config.model), config, safety_checker=safety_checker)


def make_policy(
    pipeline: DiffusionPipeline, config: TrainConfig, *, safety_checker: bool = False, trained: bool = True
) -> PipelinePolicy:
    """As `load_policy`, for a pipeline object.

    Args:
        trained: whether the policy gets an adapter. Without one it can be sampled from only.
    """
    if not safety_checker and getattr(pipeline, "safety_checker", None) is not None:
        pipeline.safety_checker = None
    if config.model.vae_tiling:
        _enable_tiling(pipeline)
    SAMPLERS.get(config.sample.sampler, config.run.plugins)
    adapter = attach(pipeline, config.model, config.run.seed) if trained else freeze(pipeline, config.model)
    return PipelinePolicy(pipeline, adapter, config.sample, embedded.CALL.get(config.model.path))


def _enable_tiling(pipeline: DiffusionPipeline) -> None:
    vae: Any = getattr(pipeline, "vae", None)
    if not hasattr(vae, "enable_tiling"):
        problem = "has no vae" if vae is None else f"has a {type(vae).__name__}, which cannot decode tile by tile"
        raise InputError(f"{type(pipeline).__name__} {problem}: set model.vae_tiling=false")
    vae.enable_tiling()


def load_pipeline(section: ModelSection) -> DiffusionPipeline:
    """Load a text-to-image pipeline by hub id, folder or bundled name; InputError if it cannot be used."""
    device = resolve_device(section.device)
    if section.path in embedded.NAMES:
        return embedded.load_pipeline(section.path).to(device=device, dtype=getattr(torch, section.dtype))
    load = _load_folder if expanded(section.path).exists() else _load_from_hub
    pipeline = load(section.path, section)
    require_text_to_image(pipeline)
    return pipeline.to(device=device)


def resolve_device(name: str) -> torch.device:
    """The torch device of `model.device`; `auto` is CUDA if available, else the CPU."""
    return find_device(name, "model.device")


def require_text_to_image(pipeline: DiffusionPipeline) -> None:
    """Raise InputError unless `pipeline` generates images from text and can be replayed."""
    kind = type(pipeline).__name__
    undecorated_call(pipeline)
    parameters = inspect.signature(type(pipeline).__call__).parameters
    for name in (*_REQUIRED_ARGUMENTS, family_of(pipeline).guidance):
        if name not in parameters:
            raise InputError(f"{kind} takes no {name}: it is not a text-to-image pipeline that can be trained here")
    for name in _OTHER_TASKS:
        if name in parameters and not _is_optional(name, parameters):
            raise InputError(f"{kind} takes {name} beside a prompt: it is not a text-to-image pipeline")
    missing = [name for name in ("encode_prompt", "prepare_latents") if not hasattr(pipeline, name)]
    if missing:
        raise InputError(f"{kind} has no {missing[0]} method: its steps cannot be replayed")
    _require_parts(pipeline)
    recording_scheduler(pipeline.scheduler, SampleSection())
    if not isinstance(getattr(pipeline, denoiser_name(pipeline)), nn.Module):
        raise InputError(f"the {denoiser_name(pipeline)} of {kind} is not a torch module: it cannot be trained")


def _load_folder(path: str, section: ModelSection) -> DiffusionPipeline:
    folder = expanded(path)
    if not (folder / INDEX).is_file():
        raise InputError(f"{path} is not a diffusers pipeline folder: it has no model_index.json")
    try:
        _require_complete(folder)
        return _from_pretrained(str(folder), section, **_missing_parts(folder))
    except Exception as error:  # diffusers, transformers and safetensors raise almost anything for a damaged folder
        _suggest_variant(path, section, folder.glob("*/*"), error)
        raise InputError(f"cannot load a pipeline from {path}: {' '.join(str(error).split())[:300]}") from error


def _load_from_hub(path: str, section: ModelSection) -> DiffusionPipeline:
    """Download a pipeline. The cached copy is used if the hub does not serve the model."""
    problem = download_problem(path, INDEX)
    cached = is_cached(path, INDEX)
    if problem is not None and not cached:
        raise InputError(not_found(path, problem))
    try:
        return _from_pretrained(path, section, local_files_only=problem is not None)
    except Exception as error:  # as for a folder
        reason = problem or explain(error, path, INDEX)
        if reason is not None:
            copy = "its copy in the cache is not complete, and " if cached else ""
            raise InputError(f"cannot load {path}: {copy}{reason}") from error
        _suggest_variant(path, section, _hub_files(path), error)
        raise InputError(f"cannot load a pipeline from {path}: {' '.join(str(error).split())[:300]}") from error


def _is_optional(name: str, parameters: Mapping[str, inspect.Parameter]) -> bool:
    """FLUX.2 and others edit an image only if they get one. Pipelines with `strength` need one."""
    return name == "image" and parameters[name].default is None and "strength" not in parameters


def _from_pretrained(path: str, section: ModelSection, **arguments: Any) -> DiffusionPipeline:
    pipeline = DiffusionPipeline.from_pretrained(
        path, dtype=getattr(torch, section.dtype), variant=section.variant, trust_remote_code=False, **arguments
    )
    _require_weights(pipeline)
    return pipeline


def _suggest_variant(path: str, section: ModelSection, files: Iterable[PurePath], error: Exception) -> None:
    """InputError that names a variant, if `model.variant` is not set and a part has only weights of variants."""
    matches = [(file.parent, match[1]) for file in files if (match := _WEIGHTS.fullmatch(file.name))]
    plain = {folder for folder, variant in matches if variant is None}
    variants = sorted({variant for folder, variant in matches if variant is not None and folder not in plain})
    if section.variant is None and variants:
        others = f" (or {', '.join(variants[1:])})" if variants[1:] else ""
        raise InputError(
            f"{path} holds weights of variant {variants[0]}: set model.variant={variants[0]}{others}"
        ) from error


def _hub_files(path: str) -> list[PurePath]:
    """The files of a model on the hub, or those in the cache if the hub does not answer."""
    try:
        return [PurePath(file) for file in list_repo_files(path)]
    except Exception:  # the HTTP library of huggingface_hub has changed, and its errors with it
        index = try_to_load_from_cache(path, INDEX)
        return list(Path(index).parent.glob("*/*")) if isinstance(index, str) else []


def _require_complete(folder: Path) -> None:
    """Raise InputError if a part has no configuration or vocabulary: transformers would make up a random one."""
    for name, kind in _listed_parts(folder).items():
        if kind is None:
            continue
        tokenizer = "Tokenizer" in kind
        files = _vocabulary_files(kind) if tokenizer else ("*config.json",)
        if not any(next((folder / name).glob(pattern), None) for pattern in files):
            raise InputError(f"its {name} has no {'vocabulary' if tokenizer else 'configuration'} file")


def _missing_parts(folder: Path) -> dict[str, None]:
    """The parts that a pipeline was saved without, such as SD3's third text encoder. diffusers wants them as None."""
    return {name: None for name, kind in _listed_parts(folder).items() if kind is None}


def _listed_parts(folder: Path) -> dict[str, str | None]:
    """{name: class} of the parts in model_index.json; None for a part that is left out.

    A part is a list of its library and class. Other lists are options of the pipeline.
    """
    index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    names = _part_names(index.get("_class_name"))
    parts: dict[str, str | None] = {}
    for name, entry in index.items():
        if not isinstance(entry, list) or len(entry) != 2 or name.startswith("_") or names.isdisjoint((name, "*")):
            continue
        if entry == [None, None]:
            parts[name] = None
        elif all(isinstance(word, str) for word in entry):
            parts[name] = entry[1]
    return parts


def _part_names(pipeline: Any) -> set[str]:
    """The parts of a pipeline class of diffusers: arguments without a default, and optional parts. "*" for any name."""
    kind = getattr(diffusers, pipeline, None) if isinstance(pipeline, str) else None
    if kind is None or not hasattr(kind, "_optional_components"):
        return {"*"}
    arguments = inspect.signature(kind.__init__).parameters.values()
    return {*kind._optional_components, *(each.name for each in arguments if each.default is each.empty)}


def _vocabulary_files(tokenizer: str) -> Sequence[str]:
    """Patterns of the files of which a tokenizer needs one. A tokenizer of bytes needs only its configuration."""
    own = getattr(getattr(transformers, tokenizer, None), "vocab_files_names", None)
    return ("*config.json",) if own == {} else (*_VOCABULARIES, *(own or {}).values())


def _require_weights(pipeline: DiffusionPipeline) -> None:
    for name, component in pipeline.components.items():
        if isinstance(component, nn.Module) and any(weight.is_meta for weight in component.parameters()):
            raise InputError(f"the weights of its {name} are incomplete")


def _require_parts(pipeline: DiffusionPipeline) -> None:
    """Raise InputError if a required part is None: the pipeline would fail halfway through a rollout."""
    optional = {*type(pipeline)._optional_components, *_OPTIONAL_PARTS}
    empty = [name for name, part in pipeline.components.items() if part is None and name not in optional]
    if empty:
        raise InputError(f"{type(pipeline).__name__} comes without its {' and '.join(empty)}: add what is missing")
