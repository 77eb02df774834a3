"""Turn the arguments of `stepcredit.Trainer` into a configuration and Python objects."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from stepcredit.config import TrainConfig
from stepcredit.credit import as_credit
from stepcredit.errors import InputError, shortened, unknown
from stepcredit.prompts import as_prompts, load_prompts
from stepcredit.rewards import CheckedReward, as_reward
from stepcredit.runs import recipes
from stepcredit.runs.changes import apply_changes
from stepcredit.runs.directory import RunDirectory
from stepcredit.runs.foreign_names import foreign_hint
from stepcredit.runs.model_defaults import LoadedModel
from stepcredit.types import CreditAssigner, Prompt
from stepcredit.utils.python_objects import object_reference

PARTS = {"model": "path", "reward": "name", "prompts": "source", "credit": "name"}
"""Arguments that are a part of the run, and the key of their section that names it."""

SECTIONS = ("sample", "train", "run")
"""Arguments that are mappings of keys."""

KEYS = {"algorithm": ("train", "algorithm"), "seed": ("run", "seed"), "plugins": ("run", "plugins")}
"""Arguments that are a single key."""

_OTHERS = ("output_dir", "config", "start_from", "callbacks", "progress")
"""Arguments that set no keys."""

_AMBIGUOUS = (*PARTS.values(), "options")
"""Keys that several sections have."""

_WHERE = "the arguments of Trainer"

Tree = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Arguments:
    """What the user has passed.

    Attributes:
        base: complete configuration to which `keys` are applied.
        keys: the keys that the arguments set, by section.
        config: the result.
        explicit_base: whether the user passed `config`.
        model: a pipeline or a policy; None if `model.path` names the model. The others likewise.
    """

    base: TrainConfig
    keys: Tree
    config: TrainConfig
    explicit_base: bool
    model: Any = None
    reward: CheckedReward | None = None
    credit: CreditAssigner | None = None
    prompts: Sequence[Prompt] | None = None

    def with_keys(self, section: str, changes: Mapping[str, Any]) -> Arguments:
        """The arguments with some keys of a section changed."""
        keys = {**self.keys, section: {**self.keys.get(section, {}), **changes}}
        return replace(self, keys=keys, config=_merge(self.base, keys, _loaded_model(self.model)))

    def with_base(self, base: TrainConfig) -> Arguments:
        return replace(self, base=base, config=_merge(base, self.keys, _loaded_model(self.model)))

    def resuming(self, directory: RunDirectory) -> Arguments:
        """The arguments applied to the configuration of the run in `directory`.

        Raises:
            InputError: the run was started with other prompts.
        """
        config = directory.config
        changed = self if self.explicit_base else self.with_base(config)
        if self.prompts is None or not directory.prompts_path.is_file():
            return changed
        if list(self.prompts) != load_prompts(str(directory.prompts_path)):
            raise InputError(
                f"{directory.path} was started with other prompts, which are in {directory.prompts_path}: "
                "leave prompts out, or choose another output_dir"
            )
        return changed.with_keys("prompts", {"source": config.prompts.source})


_POLICY_METHODS = (
    "rollout",
    "replay",
    "predict",
    "decode",
    "reference",
    "averaged",
    "stepped",
    "parameters",
    "state_dict",
    "load_state_dict",
    "export",
)


def read_arguments(
    given: Mapping[str, Any], config: TrainConfig | str | PathLike[str] | None, output_dir: Path | None
) -> Arguments:
    """Check the arguments of `Trainer` and sort them into keys and objects.

    Args:
        given: the arguments by name; None means that an argument is not given.
        config: as in `Trainer`.
        output_dir: its run, if it holds one, is the base of the configuration.

    Raises:
        InputError: an unknown argument or key, or a value of the wrong type.
    """
    _require_known(given)
    given = {name: value for name, value in given.items() if value is not None}
    if isinstance(given["plugins"], Sequence) and not given["plugins"]:
        del given["plugins"]
    keys: Tree = {section: _mapping(section, given[section]) for section in SECTIONS if section in given}
    for name, (section, key) in KEYS.items():
        if name in given:
            if key in keys.get(section, {}):
                raise InputError(f"{name} and {section}={{'{key}': ...}} set the same key {section}.{key}: give one")
            value = _plugins(given[name]) if name == "plugins" else given[name]
            keys.setdefault(section, {})[key] = value
    objects: dict[str, Any] = {}
    for name in PARTS:
        if name in given:
            keys[name], objects[name] = _part(name, given[name])
    holds_run = output_dir is not None and (output_dir / "config.yaml").is_file()
    base = RunDirectory(output_dir).config if holds_run and config is None and output_dir else _base(config)
    if config is None and not holds_run:
        _fit_prompts_per_epoch(keys, objects.get("prompts"))
    merged = _merge(base, keys, _loaded_model(objects.get("model")))
    return Arguments(base, keys, merged, config is not None, **objects)


def _plugins(value: Any) -> list[str]:
    names = [value] if isinstance(value, str | PathLike) else value
    if not isinstance(names, Sequence) or not all(isinstance(name, str | PathLike) for name in names):
        raise _wrong_type("plugins", value, "a list of files or modules")
    return [str(name) for name in names]


def _merge(base: TrainConfig, keys: Tree, loaded: LoadedModel | None) -> TrainConfig:
    tree = base.model_dump(mode="json", exclude_unset=True)
    apply_changes(
        tree, {f"{section}.{key}": value for section, changes in keys.items() for key, value in changes.items()}
    )
    return recipes.validate(tree, _WHERE, model_defaults=True, loaded=loaded)


def _require_known(given: Mapping[str, Any]) -> None:
    known = [*PARTS, *SECTIONS, *KEYS]
    places = {
        key: section
        for section in (*PARTS, *SECTIONS)
        for key in type(getattr(TrainConfig(), section)).model_fields
        if key not in _AMBIGUOUS
    }
    for name in given:
        if name in known:
            continue
        if name in places:
            raise InputError(f"Trainer has no argument '{name}': write {places[name]}={{'{name}': ...}}")
        if hint := foreign_hint(name):
            raise InputError(f"unknown argument of Trainer '{name}'; {hint}")
        raise unknown("argument of Trainer", name, [*known, *_OTHERS])


def _base(config: TrainConfig | str | PathLike[str] | None) -> TrainConfig:
    if isinstance(config, TrainConfig):
        return config
    if config is None or isinstance(config, str | PathLike):
        return recipes.load(None if config is None else str(config), model_defaults=False)
    raise _wrong_type("config", config, "a TrainConfig, a recipe file or the name of a recipe")


def _mapping(name: str, value: Any) -> dict[str, Any]:
    value = _section_keys(value)
    if not isinstance(value, Mapping):
        raise _wrong_type(name, value, f"a mapping of keys, such as {name}={{'key': value}}")
    return dict(value)


def _section_keys(value: Any) -> Any:
    """The keys that were set of a section of TrainConfig; any other value as it is."""
    return value.model_dump(exclude_unset=True) if isinstance(value, BaseModel) else value


def _part(name: str, value: Any) -> tuple[dict[str, Any], Any]:
    """The keys that an argument sets, and the object that it holds, if any."""
    value = _section_keys(value)
    is_section = isinstance(value, Mapping) and not hasattr(value, "column_names")  # a DatasetDict is a mapping too
    main = PARTS[name]
    keys = dict(value) if is_section else {main: value}
    if main not in keys or keys[main] is None:
        return keys, None
    if isinstance(keys[main], str | PathLike):
        if not str(keys[main]).strip():
            raise InputError(f"{name} is {keys[main]!r}, expected a name, a path or an object")
        return {**keys, main: str(keys[main])}, None
    found = _as_credit(keys[main], keys.get("options", {})) if name == "credit" else _CONVERTERS[name](keys[main])
    if name == "reward":
        _require_no_reward_keys(keys)
    recorded = {main: object_reference(keys[main])}
    if name == "model":
        recorded = {main: f"python:{type(found).__name__}", **_pipeline_keys(found, keys)}
    return {**keys, **recorded}, found


def _require_no_reward_keys(keys: Mapping[str, Any]) -> None:
    for key in ("options", "components", "remote", "ray_workers"):
        if keys.get(key):
            raise InputError(
                f"reward.{key} is for rewards given by name, but the reward is a Python object: set it on the object"
            )


def _as_model(value: Any) -> Any:
    if isinstance(value, type) or not (_is_pipeline(value) or _is_policy(value)):
        raise _wrong_type("model", value, "a hub id, a folder, a diffusers pipeline or a Policy")
    return value


def _is_pipeline(value: Any) -> bool:
    if not hasattr(value, "components") or isinstance(value, type):
        return False
    from diffusers import DiffusionPipeline  # diffusers takes seconds to import

    return isinstance(value, DiffusionPipeline)


def _is_policy(value: Any) -> bool:
    return all(callable(getattr(value, name, None)) for name in _POLICY_METHODS)


def _loaded_model(model: Any) -> LoadedModel | None:
    """What tells the family and checkpoint of a pipeline or policy; None for None."""
    if model is None:
        return None
    options = model.config if _is_pipeline(model) else {}
    name = str(options.get("_name_or_path") or "")
    return LoadedModel([kind.__name__ for kind in type(model).__mro__], name, options)


def _pipeline_keys(model: Any, keys: Mapping[str, Any]) -> dict[str, Any]:
    """`dtype` and `device` of a pipeline object."""
    if not _is_pipeline(model):
        return {}
    import torch

    from stepcredit.policy.adapters import denoiser_name

    name = denoiser_name(model)
    denoiser = getattr(model, name)
    if not isinstance(getattr(denoiser, "dtype", None), torch.dtype):
        raise InputError(
            f"the {name} of this {type(model).__name__} is a {type(denoiser).__name__}, expected a model of diffusers: "
            "pass the pipeline before its parts are wrapped"
        )
    dtype, device = str(denoiser.dtype).removeprefix("torch."), denoiser.device.type
    if keys.get("dtype", dtype) != dtype:
        raise InputError(
            f"model.dtype is {keys['dtype']}, but the pipeline's {name} is {dtype}: convert the pipeline, or leave "
            "model.dtype out"
        )
    asked = str(keys.get("device", "auto"))
    if asked.partition(":")[0] not in ("auto", device, model._execution_device.type):
        raise InputError(
            f"model.device is {asked}, but the pipeline's {name} is on {device}: move the pipeline, or leave "
            "model.device out"
        )
    idle = device == "cpu" and torch.accelerator.is_available()
    return {"dtype": dtype, **({"device": "cpu"} if idle else {})}


def _as_credit(value: Any, options: Mapping[str, Any]) -> CreditAssigner:
    if isinstance(value, type) or not callable(value):
        raise _wrong_type("credit", value, "the name of a credit rule, a function or a CreditAssigner")
    return as_credit(value, object_reference(value), options)


_CONVERTERS: Mapping[str, Callable[[Any], Any]] = {
    "model": _as_model,
    "reward": as_reward,
    "prompts": as_prompts,
}


def _fit_prompts_per_epoch(keys: Tree, prompts: Sequence[Prompt] | None) -> None:
    """Fewer prompts than an epoch draws by default are all drawn."""
    default = TrainConfig().sample.prompts_per_epoch
    if prompts is not None and default is not None and len(prompts) < default:
        keys.setdefault("sample", {}).setdefault("prompts_per_epoch", len(prompts))


def _wrong_type(name: str, value: Any, expected: str) -> InputError:
    return InputError(f"{name} is {shortened(repr(value))} of type {type(value).__name__}, expected {expected}")
