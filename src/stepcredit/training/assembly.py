"""Build the parts of a run from its configuration, or take them from Python."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from stepcredit.algorithms import build_algorithm
from stepcredit.algorithms.contained import ContainedAlgorithm
from stepcredit.algorithms.minibatch import largest_update
from stepcredit.config import TrainConfig
from stepcredit.credit import build_credit
from stepcredit.distributed.process_group import ProcessGroup
from stepcredit.errors import InputError
from stepcredit.plugins import load_plugins
from stepcredit.policy.samplers import SAMPLERS
from stepcredit.prompts import load_prompts
from stepcredit.rewards import CheckedReward, build_reward
from stepcredit.runs.directory import RunDirectory
from stepcredit.training.learnable import require_advantages
from stepcredit.training.parts import Parts, require_noise
from stepcredit.types import CreditAssigner, Policy, Prompt
from stepcredit.utils.paths import expanded

_ARGUMENTS = {"model.path": "model", "reward.name": "reward", "credit.name": "credit", "prompts.source": "prompts"}


@dataclass(frozen=True)
class Objects:
    """Python objects to use instead of what the configuration names. None builds the part from the configuration.

    Attributes:
        load_policy: makes the policy of a configuration.
    """

    load_policy: Callable[[TrainConfig], Policy] | None = None
    reward: CheckedReward | None = None
    credit: CreditAssigner | None = None
    prompts: Sequence[Prompt] | None = None


NO_OBJECTS = Objects()


@dataclass(frozen=True)
class Assembly:
    """The parts of a run.

    Attributes:
        weights_dir: the folder of the trained weights.
    """

    config: TrainConfig
    parts: Parts
    weights_dir: Path


def assemble(config: TrainConfig, directory: RunDirectory, objects: Objects) -> Assembly:
    """Build the parts of a run. The model comes last, because it takes longest to load.

    Raises:
        InputError: a part cannot be built, or needs an object that is not in `objects`.
    """
    require_objects(config, objects, directory)
    _require_plugin_files(config.run.plugins)
    load_plugins(config.run.plugins)
    prompts = objects.prompts or load_prompts(prompt_source(config, directory))
    require_advantages(config, prompts)
    credit = objects.credit or build_credit(config.credit, config.run.seed)
    reward = objects.reward or build_reward(config.reward)
    algorithm = ContainedAlgorithm(build_algorithm(config.train), config.train.algorithm)
    SAMPLERS.get(config.sample.sampler)
    require_noise(config.train.algorithm, algorithm.needs, config.sample)
    policy = _load_policy(config, objects)
    parts = Parts(policy, reward, credit, algorithm, prompts)
    return Assembly(config, parts, weights_dir(config, policy, directory))


def require_objects(
    config: TrainConfig, objects: Objects, directory: RunDirectory, keys: Sequence[str] = tuple(_ARGUMENTS)
) -> None:
    """Check that every part that only a Python program can supply is in `objects`.

    Args:
        keys: the parts that are needed, by their key in the configuration.

    Raises:
        InputError: one is missing. The message says how to resume the run.
    """
    given = {
        "model.path": objects.load_policy,
        "reward.name": objects.reward,
        "credit.name": objects.credit,
        "prompts.source": objects.prompts,
    }
    missing = {key: name for key, name in config.python_objects.items() if key in keys and given[key] is None}
    if missing:
        named = " and ".join(f"{key} is {name}" for key, name in missing.items())
        arguments = "".join(f"{_ARGUMENTS[key]}=..., " for key in missing)
        if not directory.config_path.is_file():
            raise InputError(f"{named}, a Python object: pass it to stepcredit.Trainer({arguments}...) in Python")
        raise InputError(
            f"the run in {directory.path} uses Python objects ({named}): pass them again in Python, as in "
            f"Trainer({arguments}output_dir={str(directory.path)!r}).resume()"
        )


def _require_plugin_files(plugins: Sequence[str]) -> None:
    for name in plugins:
        if name.endswith(".py") and not expanded(name).is_file():
            others = [other for other in plugins if other != name]
            raise InputError(
                f"no plugin file {name} (current folder: {Path.cwd()}): if it has moved or another file replaces it, "
                f"set run.plugins={json.dumps([*others, 'NEW/PLACE.py'])}"
            )


def prompt_source(config: TrainConfig, directory: RunDirectory) -> str:
    """The prompts that a run was started with in Python lie in its directory, wherever that is now."""
    own = directory.prompts_path
    return str(own) if Path(config.prompts.source).name == own.name and own.is_file() else config.prompts.source


def _load_policy(config: TrainConfig, objects: Objects) -> Policy:
    from stepcredit.policy import loading  # diffusers takes seconds to import
    from stepcredit.utils.logging import quiet_libraries

    quiet_libraries()
    return (objects.load_policy or loading.load_policy)(config)


def weights_dir(config: TrainConfig, policy: Policy, directory: RunDirectory) -> Path:
    """Where the trained weights of a run are written."""
    from stepcredit.policy.adapters import denoiser_name
    from stepcredit.policy.pipeline import PipelinePolicy

    if config.model.adapter == "full" and isinstance(policy, PipelinePolicy):
        return directory.path / denoiser_name(policy.pipeline)
    return directory.lora_dir


def measure_microbatch(found: Assembly, processes: ProcessGroup) -> TrainConfig:
    """The configuration with the largest micro-batch that fits into memory in place of `train.microbatch: auto`.

    All ranks take part and get the same number. An error on one rank is raised on all of them.
    """
    config, policy, prompts = found.config, found.parts.policy, found.parts.prompts
    if config.train.microbatch != "auto":
        return config
    from stepcredit.policy.checks.doctor import fitting_microbatch
    from stepcredit.policy.pipeline import PipelinePolicy

    if not isinstance(policy, PipelinePolicy):
        raise InputError(f"train.microbatch=auto needs a pipeline, but the model is a {type(policy).__name__}")
    images = config.images_per_epoch or len(prompts) * config.sample.images_per_prompt
    share = -(-images // processes.world_size)
    update = largest_update(config.train, share)
    local = processes.run_on_all(lambda: fitting_microbatch(policy, share, update))
    fitting = min(processes.all_gather(local))
    return config.model_copy(update={"train": config.train.model_copy(update={"microbatch": fitting})})
